"""The picture of a network: its layers as boxes from top to bottom, its skips as arcs beside them.

Equal blocks in a row are drawn once, with their number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from skiplab.errors import FolderError, NotDrawn, in_words
from skiplab.networks.structure import Skip, Stage, Unit
from skiplab.runs import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# All lengths are inches.
BOX_HEIGHT, GAP = 0.27, 0.17
# Around a block that repeats, and between stages.
MARGIN, STAGE_GAP = 0.12, 0.2
# A letter's mean width at the size of a box's text.
LETTER = 0.068
LEAST_WIDTH = 1.7
# Between a box and the arcs, and between one arc and the next.
ARC, ARC_STEP = 0.3, 0.22
LEFT, RIGHT = 1.65, 1.75
JOIN = 0.085
TEXT, SMALL = 8.0, 7.0
# A unit of more boxes is drawn without its middle.
MOST_BOXES = 40

INK, MUTED, FRAME, BACK = "#2b2f36", "#6b7280", "#c9d1dc", "#f5f7fa"
ARC_COLOUR = "#d9822b"
# Colours of boxes by the first word that fits.
COLOURS = (
    ("conv", "#d3e3f6"),
    ("linear", "#f9e2c7"),
    ("pool", "#dcefdc"),
    ("mean", "#dcefdc"),
)
PLAIN = "#eceff3"
SIGNS = {"sum": "+", "concatenation": "cat", "product": "x"}


@dataclass(frozen=True)
class Box:
    """Layers of a unit that are drawn as one box: layers[start:end]."""

    start: int
    end: int
    text: str


def boxes_of(unit: Unit) -> list[Box]:
    """Return the boxes of a unit.

    A box holds one layer with weights and the small ones around it. A skip begins and ends between
    boxes.
    """
    edges = {edge for skip in unit.skips for edge in (skip.start, skip.end)}
    found: list[Box] = []
    start, is_heavy = 0, False
    for at, layer in enumerate(unit.layers):
        begins = at in edges or "pool" in layer.text or (layer.is_heavy and is_heavy)
        if at > start and begins:
            found.append(box(unit, start, at))
            start, is_heavy = at, False
        is_heavy = is_heavy or layer.is_heavy
    if unit.layers:
        found.append(box(unit, start, len(unit.layers)))
    return found


def box(unit: Unit, start: int, end: int) -> Box:
    """Return the box of layers[start:end]."""
    return Box(start, end, ", ".join(layer.text for layer in unit.layers[start:end]))


def levels_of(skips: Sequence[Skip]) -> list[int]:
    """Return how far out each skip's arc lies: beyond those that it overlaps and that are shorter.

    The first level is 0.
    """
    found: dict[int, int] = {}
    for at in sorted(range(len(skips)), key=lambda at: skips[at].end - skips[at].start):
        this = skips[at]
        inner = [
            level
            for other, level in found.items()
            if skips[other].start < this.end and this.start < skips[other].end
        ]
        found[at] = 1 + max(inner, default=-1)
    return [found[at] for at in range(len(skips))]


def branch_lines(skip: Skip) -> list[str]:
    """Return what stands beside a skip's arc; nothing for an identity."""
    return [layer.text for layer in skip.layers]


@dataclass
class Sketch:
    """The drawing, from top to bottom; `y` is where its last line ends."""

    width: float
    # How far the arcs and what stands beside them reach to the right of the boxes.
    reach: float
    y: float = 0.0
    marks: list[Callable[["Axes"], None]] = field(default_factory=list)

    @classmethod
    def of(cls, stages: Sequence[Stage]) -> "Sketch":
        """Make an empty drawing with room for the widest box and arc."""
        units = [unit for stage in stages for unit in stage.units]
        texts = [len(each.text) for unit in units for each in boxes_of(unit)]
        reach = 0.3
        for unit in units:
            for skip, level in zip(unit.skips, levels_of(unit.skips), strict=True):
                longest = max(map(len, branch_lines(skip)), default=0)
                reach = max(reach, ARC + level * ARC_STEP + 0.15 + longest * LETTER * SMALL / TEXT)
        return cls(max(LEAST_WIDTH, 0.25 + LETTER * max(texts, default=0)), reach)

    @property
    def middle(self) -> float:
        """Where the line through all boxes runs."""
        return self.width / 2

    def draw(self, stages: Sequence[Stage]) -> None:
        """Draw the input, then stage by stage."""
        takes = " x ".join(map(str, stages[0].units[0].takes))
        self.text(self.middle, 0.0, f"image {takes}", size=TEXT, align="center")
        self.y = 0.08
        for stage in stages:
            # A network may have nothing to do before its head.
            if any(unit.layers for unit in stage.units):
                self.stage(stage)
        self.line_down(STAGE_GAP)
        gives = " x ".join(map(str, stages[-1].gives))
        self.text(self.middle, self.y + 0.1, f"{gives} logits", size=TEXT, align="center")
        self.y += 0.15

    def stage(self, stage: Stage) -> None:
        """Draw a stage in its frame, with its name, shape and costs beside it."""
        self.line_down(STAGE_GAP, arrow=False)
        top = self.y
        self.line_down(MARGIN, arrow=False)
        shown = [unit for unit in stage.units if unit.layers]
        for unit in shown:
            # The stage's own name and shape stand above the first block's.
            self.unit(unit, label_from=top + 0.42)
        self.line_down(MARGIN, arrow=False)
        left, right = -MARGIN * 2, self.width + self.reach
        self.frame((left, top, right, self.y), BACK, order=0)
        shape = " x ".join(map(str, stage.gives))
        self.text(left - 0.1, top + 0.1, stage.name, align="right", weight="bold", size=TEXT + 1)
        self.text(left - 0.1, top + 0.27, shape, align="right", colour=MUTED)
        if stage.parameters:
            costs = f"{stage.parameters:,} parameters"
            self.text(right + 0.1, top + 0.1, costs, colour=MUTED)
        if stage.macs:
            self.text(right + 0.1, top + 0.25, f"{stage.macs / 1e6:,.2f} M MACs", colour=MUTED)

    def unit(self, unit: Unit, *, label_from: float) -> None:
        """Draw a block: its boxes, and its skips from where they leave to where they join."""
        repeats = unit.count > 1
        if repeats:
            self.line_down(MARGIN, arrow=False)
        top = self.y
        boxes, hidden = boxes_of(unit), 0
        if len(boxes) > MOST_BOXES:
            hidden = len(boxes) - MOST_BOXES
        # Where the skips that begin before layer i leave the line, and where skip i joins it.
        leaves: dict[int, float] = {}
        joins: dict[int, float] = {}
        for at, each in enumerate(boxes):
            if hidden and MOST_BOXES // 2 <= at < MOST_BOXES // 2 + hidden:
                if at == MOST_BOXES // 2:
                    self.line_down(GAP)
                    self.box(f"... {hidden} more ...", PLAIN)
                continue
            leaves[each.start] = self.y + GAP * 0.35
            self.line_down(GAP)
            self.box(each.text, colour_of(each.text))
            for number, skip in enumerate(unit.skips):
                if skip.end == each.end:
                    joins[number] = self.join(skip.joined_by)
        for number, (skip, level) in enumerate(zip(unit.skips, levels_of(unit.skips), strict=True)):
            if skip.start in leaves and number in joins:
                self.arc(leaves[skip.start], joins[number], level, branch_lines(skip))
        if unit.name:
            count = f"\nx {unit.count}" if repeats else ""
            y = max(label_from, (top + self.y) / 2)
            weight = "bold" if repeats else "normal"
            self.text(-MARGIN * 2 - 0.1, y, unit.name + count, align="right", weight=weight)
        if repeats:
            bottom = self.y + 0.06
            right = self.width + self.reach - 0.05
            self.frame((-MARGIN, top, right, bottom), "none", order=1, is_dashed=True)
            self.line_down(MARGIN + 0.06, arrow=False)

    # ---------------------------------------------------------------------------------------------
    # marks

    def line_down(self, length: float, *, arrow: bool = True) -> None:
        """Draw the line on from the last mark."""
        x, start, end = self.middle, self.y, self.y + length
        self.y = end

        def put(axes: "Axes") -> None:
            style = "-|>" if arrow else "-"
            look = {"arrowstyle": style, "color": INK, "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
            look["mutation_scale"] = 7
            axes.annotate("", (x, end), (x, start), arrowprops=look, zorder=3)

        self.marks.append(put)

    def box(self, text: str, colour: str) -> None:
        """Draw a box with its text."""
        corners = (0.0, self.y, self.width, self.y + BOX_HEIGHT)
        self.frame(corners, colour, order=4, edge=INK)
        self.text(self.middle, self.y + BOX_HEIGHT / 2, text, align="center", size=TEXT)
        self.y += BOX_HEIGHT

    def join(self, joined_by: str) -> float:
        """Draw the circle in which a skip ends; return where it is."""
        y = self.y + GAP * 0.7 + JOIN
        self.line_down(GAP * 0.7)
        x, size = self.middle, JOIN
        sign = SIGNS[joined_by]
        # A word needs more room than a sign.
        wide = size * (2.0 if len(sign) > 1 else 1.0)

        def put(axes: "Axes") -> None:
            from matplotlib.patches import Ellipse

            look = {"facecolor": "white", "edgecolor": ARC_COLOUR, "lw": 1.1, "zorder": 5}
            axes.add_patch(Ellipse((x, y), 2 * wide, 2 * size, **look))

        self.marks.append(put)
        self.text(x, y, sign, align="center", size=SMALL, colour=ARC_COLOUR)
        self.y = y + size
        return y

    def arc(self, start: float, end: float, level: int, lines: Sequence[str]) -> None:
        """Draw a skip beside the boxes, and what lies on it."""
        x, out = self.middle, self.width + ARC + level * ARC_STEP - 0.1
        bend = min(0.12, (end - start) / 3)

        def put(axes: "Axes") -> None:
            from matplotlib.patches import FancyArrowPatch
            from matplotlib.path import Path as Outline

            corners = [(x, start), (out - bend, start), (out, start), (out, start + bend)]
            corners += [(out, end - bend), (out, end), (out - bend, end), (x + JOIN, end)]
            steps = [Outline.MOVETO, Outline.LINETO, Outline.CURVE3, Outline.CURVE3]
            steps += [Outline.LINETO, Outline.CURVE3, Outline.CURVE3, Outline.LINETO]
            look = {"arrowstyle": "-|>", "mutation_scale": 7, "color": ARC_COLOUR, "lw": 1.3}
            outline = Outline(corners, steps)
            axes.add_patch(FancyArrowPatch(path=outline, fill=False, zorder=3, **look))

        self.marks.append(put)
        if lines:
            y = (start + end) / 2
            self.text(out + 0.07, y, "\n".join(lines), size=SMALL, colour=ARC_COLOUR)

    def frame(
        self,
        corners: tuple[float, float, float, float],
        colour: str,
        *,
        order: int,
        edge: str = FRAME,
        is_dashed: bool = False,
    ) -> None:
        """Draw a rectangle, left, top, right and bottom; what has a higher `order` covers it."""
        left, top, right, bottom = corners

        def put(axes: "Axes") -> None:
            from matplotlib.patches import FancyBboxPatch

            look = {"facecolor": colour, "edgecolor": edge, "lw": 0.7, "zorder": order}
            round_ = "round,pad=0,rounding_size=0.05"
            size = right - left, bottom - top
            patch = FancyBboxPatch((left, top), *size, boxstyle=round_, **look)
            patch.set_linestyle("--" if is_dashed else "-")
            axes.add_patch(patch)

        self.marks.append(put)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        align: str = "left",
        size: float = SMALL,
        colour: str = INK,
        weight: str = "normal",
    ) -> None:
        """Write a text beside or around a point, in the middle of its height."""
        look = {"ha": align, "va": "center", "fontsize": size, "color": colour, "zorder": 6}
        self.marks.append(lambda axes: axes.text(x, y, text, fontweight=weight, **look) and None)


def colour_of(text: str) -> str:
    """Return the colour of a box by the layers in it."""
    return next((colour for word, colour in COLOURS if word in text), PLAIN)


@canvas.plain()
def draw(stages: Sequence[Stage], target: Path, *, title: str) -> None:
    """Draw a network as a PNG file.

    Raises FolderError if it cannot be written, NotDrawn if drawing fails.
    """
    try:
        # Matplotlib takes half a second to import, and may fail.
        from skiplab.runs import plots

        sketch = Sketch.of(stages)
        sketch.draw(stages)
        whole = LEFT + sketch.width + sketch.reach + RIGHT
        heading = plots.wrapped(title, inches=whole - 0.3, points=9)
        above = 0.35 + 0.17 * heading.count("\n")
        made = plots.figure(whole, above + sketch.y + 0.1, layout=None)
        axes = made.add_axes((0, 0, 1, 1))
        axes.set_xlim(-LEFT, whole - LEFT)
        axes.set_ylim(sketch.y + 0.1, -above)
        axes.axis("off")
        for put in sketch.marks:
            put(axes)
        axes.text(whole / 2 - LEFT, -above + 0.02, heading, ha="center", va="top", fontsize=9)
        plots.save(made, target, **plots.CLOSE)
    except FolderError as error:
        raise FolderError(f"{error}; --out names another") from None
    except Exception as error:
        raise NotDrawn(f"{target} not drawn ({in_words(error)})") from error
