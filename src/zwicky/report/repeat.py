"""The last section: everything needed to repeat the benchmark, and what it cost."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from zwicky.report import tables, words
from zwicky.report.material import Material, is_number


def repeat(material: Material) -> Markup:
    """Command, recipe, versions, seeds, draws, machine, time and cost."""
    run, data = material.run, material.data
    parts = []
    if run.get("command"):
        parts.append(Markup("<h3>Command</h3><pre>{}</pre>").format(run["command"]))
    seeds = sorted({str(row["seed"]) for row in material.results if row.get("seed") is not None})
    pretrain_seeds = sorted(
        {str(row["pretrain_seed"]) for row in material.results if row.get("pretrain_seed") is not None}
    )
    draws = material.result.path / "draws.parquet"
    parts.append(
        tables.facts(
            [
                ("Data store", data.get("store")),
                ("Split", _design(data)),
                (
                    "Labels drawn",
                    {"True": "equal numbers of each class", "False": "in their natural proportions"}.get(
                        str(data.get("balanced"))
                    ),
                ),
                (
                    "Images pretrained on",
                    words.count(data["pretraining_images"]) if is_number(data.get("pretraining_images")) else None,
                ),
                ("Augmentation", data.get("augmentation")),
                ("Seed", run.get("seed")),
                ("Seeds of the cells", ", ".join(seeds) or None),
                ("Seeds of pretraining", ", ".join(pretrain_seeds) or None),
                (
                    "Draws of labels",
                    "draws.parquet in the result directory" if draws.exists() else "draws.parquet is missing",
                ),
                ("Started", run.get("started")),
                ("Finished", run.get("finished")),
                ("Time", words.duration(run["seconds"]) if is_number(run.get("seconds")) else None),
                ("Schema version", run.get("schema_version")),
                *((f"Machine: {key}", value) for key, value in _items(run.get("machine"))),
            ]
        )
    )
    if roles := _roles(data.get("roles")):
        parts.append(roles)
    parts.append(tables.cost(material))
    if versions := _items(run.get("versions")):
        parts.append(
            tables.table("Versions", ["Package", "Version"], [[name, str(version)] for name, version in versions])
        )
    if material.config:
        parts.append(
            Markup('<h3>config.yaml</h3><pre class="long" tabindex="0" aria-label="config.yaml">{}</pre>').format(
                material.config
            )
        )
    else:
        parts.append(Markup('<p class="missing">config.yaml is missing: the recipe cannot be shown.</p>'))
    return Markup("\n").join(parts)


def _items(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return [] if value is None else [("", value)]


def _design(data: dict[str, Any]) -> str | None:
    if data.get("design") == "folds":
        return f"{data.get('folds', '?')} folds, repeated {data.get('repeats', '?')} times"
    return {"holdout": "one held-out test set"}.get(str(data.get("design")))


def _roles(roles: Any) -> Markup | None:
    """How many objects of each class each role has."""
    if not isinstance(roles, dict):
        return None
    counted = {role: counts if isinstance(counts, dict) else {"objects": counts} for role, counts in roles.items()}
    columns = list(dict.fromkeys(name for counts in counted.values() for name in counts))
    rows = [[role, *(words.count(counts.get(name)) for name in columns)] for role, counts in counted.items()]
    return tables.table("Objects by role in the split", ["Role", *columns], rows, "numbers") if columns else None
