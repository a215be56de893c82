"""How time grows with the picture, drawn: one line a network, on logarithmic axes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from linearsr.evaluation.benchmark import SizeReport, exponent
from linearsr.evaluation.plotting import BLUE, GREY, RED, drawn

_COLOURS = {"ours": BLUE, "softmax": RED, "diffusers": GREY}


def curves(reports: Sequence[SizeReport]) -> dict[str, tuple[list[int], list[float]]]:
    """Tokens and median seconds of one evaluation, by network; sizes that were left out are left out."""
    found = {"ours": ([r.tokens for r in reports], [r.evaluation.median for r in reports])}
    for rival in reports[0].rivals:
        seen = [(r.tokens, timing.median) for r in reports if (timing := r.rivals[rival]) is not None]
        found[rival] = ([tokens for tokens, _ in seen], [seconds for _, seconds in seen])
    return found


def draw_scaling(reports: Sequence[SizeReport], title: str, file: Path) -> None:
    """Write a PNG of seconds over output megapixels; see `drawn`."""
    from matplotlib.ticker import NullFormatter, NullLocator

    megapixels: Mapping[int, float] = {r.tokens: r.output[0] * r.output[1] / 1e6 for r in reports}
    with drawn(file, 6.4, 4.2) as figure:
        axis = figure.subplots()
        for name, (tokens, seconds) in curves(reports).items():
            power = f": tokens to the power {exponent(tokens, seconds):.2f}" if len(set(tokens)) > 1 else ""
            sizes = [megapixels[n] for n in tokens]
            axis.loglog(sizes, seconds, "o-", color=_COLOURS[name], label=f"{name}{power}")
        axis.set(xlabel="output megapixels", ylabel="seconds for one evaluation (1 NFE)", title=title)
        marks = list(megapixels.values())
        axis.set_xticks(marks, [f"{value:.2g}" for value in marks], minor=False)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(visible=True, which="both", linewidth=0.3)
        axis.legend(fontsize=9)
