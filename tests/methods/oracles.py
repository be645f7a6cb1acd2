"""The losses of DINO, iBOT and EsViT as the papers' sums, in loops and in plain double precision."""

import math

import torch.nn.functional as F


def slow_view_loss(student, teacher, temperature):
    """−(1/|P|) Σ over pairs of different crops of (1/B) Σ_b Σ_k p_t log p_s; [V, B, K] logits, [G, B, K] targets."""
    total, pairs = 0.0, [(g, v) for g in range(len(teacher)) for v in range(len(student)) if v != g]
    for g, v in pairs:
        for b in range(len(student[v])):
            row = [float(x) / temperature for x in student[v][b].double()]
            norm = max(row) + math.log(sum(math.exp(x - max(row)) for x in row))
            targets = teacher[g][b].double().tolist()
            total -= sum(p * (x - norm) for p, x in zip(targets, row, strict=True)) / len(student[v])
    return total / len(pairs)


def slow_mim(student, teacher, mask, temperature):
    """−(1/B) Σ_b (1/max(1, |M_b|)) Σ_(i∈M_b) p_i · log p_s,i, one token at a time; [B, N, K] each, mask [B, N]."""
    total = 0.0
    for logits, targets, masked in zip(student.double(), teacher.double(), mask, strict=True):
        index = masked.nonzero()[:, 0].tolist()
        terms = [-(targets[i] * (logits[i] / temperature).log_softmax(-1)).sum() for i in index]
        total += float(sum(terms)) / max(1, len(index)) / len(mask)
    return total


def slow_regions(student, teacher, valid, temperature):
    """EsViT's double sum, one pair of views, image and region at a time; (features, logits or targets) of each view."""
    total, pairs = 0.0, [(g, v) for g in range(len(teacher)) for v in range(len(student)) if v != g]
    for g, v in pairs:
        (z_t, p_t), (z_s, logits), terms = teacher[g], student[v], []
        for b in range(len(z_s)):
            allowed = [j for j in range(z_t.shape[1]) if valid[g][b, j]]
            for i in range(z_s.shape[1]):
                if valid[v][b, i] and allowed:
                    j = max(allowed, key=lambda j: float(F.cosine_similarity(z_s[b, i], z_t[b, j], dim=0)))
                    log_p = (logits[b, i].double() / temperature).log_softmax(-1)
                    terms.append(-float((p_t[b, j].double() * log_p).sum()))
        total += sum(terms) / max(len(terms), 1)
    return total / len(pairs)
