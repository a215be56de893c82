"""How time grows with the picture, drawn: one line a network, on logarithmic axes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from linearsr.evaluation.benchmark import SizeReport, exponent
from linearsr.runtime.files import whole_file

_COLOURS = {"ours": "#1f4e79", "softmax": "#c0392b", "diffusers": "#7f8c8d"}
_DPI = 110


def curves(reports: Sequence[SizeReport]) -> dict[str, tuple[list[int], list[float]]]:
    """Tokens and median seconds of one evaluation, by network; sizes that were left out are left out."""
    found = {"ours": ([r.tokens for r in reports], [r.evaluation.median for r in reports])}
    for rival in reports[0].rivals:
        seen = [(r.tokens, timing.median) for r in reports if (timing := r.rivals[rival]) is not None]
        found[rival] = ([tokens for tokens, _ in seen], [seconds for _, seconds in seen])
    return found


def draw_scaling(reports: Sequence[SizeReport], title: str, file: Path) -> None:
    """Write a PNG of seconds over output megapixels.

    Needs matplotlib (the extra `train`). An existing file is replaced; a failure leaves none. OSError where the place
    cannot be written to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, NullLocator

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    megapixels: Mapping[int, float] = {r.tokens: r.output[0] * r.output[1] / 1e6 for r in reports}
    for name, (tokens, seconds) in curves(reports).items():
        power = f": tokens to the power {exponent(tokens, seconds):.2f}" if len(set(tokens)) > 1 else ""
        axis.loglog(
            [megapixels[n] for n in tokens], seconds, "o-", color=_COLOURS[name], label=f"{name}{power}"
        )
    axis.set(xlabel="output megapixels", ylabel="seconds for one evaluation (1 NFE)", title=title)
    axis.set_xticks(list(megapixels.values()), [f"{value:.2g}" for value in megapixels.values()], minor=False)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(visible=True, which="both", linewidth=0.3)
    axis.legend(fontsize=9)
    with whole_file(file) as draft:
        figure.savefig(draft, dpi=_DPI, format="png")
