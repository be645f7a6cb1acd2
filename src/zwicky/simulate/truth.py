"""Unit and meaning of the truth columns of a population, as `store.json` and the documentation give them."""

from zwicky.io import read_settings
from zwicky.simulate import FOLDER
from zwicky.simulate.draw import draw_block
from zwicky.simulate.light import has_source
from zwicky.simulate.population import Population


def truth_columns(population: Population) -> dict[str, dict[str, str]]:
    """Return `unit` and `meaning` of each truth column but `object_class`."""
    drawn, bands, classes = draw_block(population, 0, 0), population.instrument.bands, population.classes.values()
    substructure = read_settings(FOLDER.parent / "truth.yaml")
    table = {name: substructure[name] for name in (*drawn.values, *drawn.lists) if name in substructure}

    def add(name: str, unit: str, meaning: str) -> None:
        table.setdefault(name, {"unit": unit, "meaning": meaning})  # where classes differ, that of the first

    for parameters in (population.common, *(one.parameters for one in classes)):
        for name, prior in parameters.items():
            add(name, prior.unit, prior.meaning)
    for name in population.galaxies:
        if f"{name}_pick" in table:
            add(f"{name}_id", "", f"id of the real galaxy that is the {name}")
    if population.pairs:
        add("pair_id", "", "the same for the two images of one lens")
    lights = {layer: f"the {layer} light in {{}}, as observed" for layer in population.light}
    if has_source(population):
        add("magnification", "", "total magnification of the source, within the image and its margin")
        lights["source"] = "the unlensed source in {}"
    for layer, light in lights.items():
        for band in dict.fromkeys([*bands, *(photometry.band for photometry in population.light.values())]):
            if band in bands or f"{layer}_mag_{band}" in drawn.values:
                add(f"{layer}_mag_{band}", "mag", f"AB magnitude of {light.format(band)}")
    for layer in population.light:
        add(f"{layer}_snr", "", f"signal-to-noise ratio of the {layer} light, all bands together")
    return table
