"""The terminal program: draws looks, and does what keys say.

Everything that is shown may have been chosen by strangers: it is drawn as text, never as markup,
and without control characters.
"""

import argparse
import asyncio
from contextlib import suppress
from typing import Any, ClassVar, Final

from rich.text import Text
from textual import events, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, Footer, Input, Static

import pooler
from pooler import ctl
from pooler.config.problem import printable
from pooler.core.errors import PoolerError
from pooler.top.look import NOTHING, Look, Looker, Row
from pooler.top.sheets import SHEETS, Column, Sheet
from pooler.top.write import UNKNOWN, number, seconds, spark

SHARE: Final = 5
"""The next look is so many times later as this one took, at least: to look is not to load."""
RETRY: Final = 2.0
"""Seconds until a pooler that has gone is looked for again."""
ROWS: Final = 500
"""Rows that are drawn; whoever looks for one among more has the filter."""


def watch(options: argparse.Namespace) -> int:
    """Show it until told to quit; return the exit status."""
    app = Top(options)
    status: int | None = app.run()
    if app.failure is not None:
        raise app.failure
    return ctl.DONE if status is None else status


class Top(App[int]):
    """`pooler top`."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
        Screen { background: $background; }
        #head { height: 1; background: $primary; color: $text; padding: 0 1; }
        #summary { height: 3; padding: 0 1; }
        #sheets { height: 1; padding: 0 1; color: $text-muted; }
        #rows { height: 1fr; }
        #note { height: 1; padding: 0 1; color: $text-muted; }
        #filter { height: 1; border: none; padding: 0 1; display: none; }
        #filter.open { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(sheet.key, f"sheet({place})", sheet.title, show=False)
            for place, sheet in enumerate(SHEETS)
        ),
        Binding("tab", "step(1)", "Next", show=False, priority=True),
        Binding("shift+tab", "step(-1)", "Back", show=False, priority=True),
        Binding("s,right", "sort(1)", "Sort"),
        Binding("S,left", "sort(-1)", "Sort back", show=False),
        Binding("r", "reverse", "Reverse"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("escape", "clear", "All", show=False),
        Binding("space", "hold", "Hold"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
    ]

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self._options = options
        self._looker = Looker()
        self._last = NOTHING
        self._sheet: Sheet = SHEETS[0]
        self._sorts: dict[str, tuple[str, bool]] = {}
        self._filter = ""
        self._held = False
        self._trouble = "connecting"
        self._wanted = asyncio.Event()
        self._drawn: tuple[Any, ...] = ()
        self.failure: ctl.CtlError | None = None

    # -- what is on the screen

    def compose(self) -> ComposeResult:
        """Lay the screen out."""
        yield Static(id="head", markup=False)
        yield Static(id="summary", markup=False)
        yield Static(id="sheets", markup=False)
        with Vertical():
            yield DataTable[Text](id="rows", cursor_type="row", zebra_stripes=False)
        yield Static(id="note", markup=False)
        yield Input(id="filter", placeholder="part of any text; Enter keeps it, Escape shows all")
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one(DataTable).focus()
        self._draw()
        self._look()

    def on_resize(self, event: events.Resize) -> None:
        """Columns may come or go."""
        self._draw()

    # -- looking

    @work(exclusive=True)
    async def _look(self) -> None:
        """Look again and again; connect again when the pooler has gone."""
        connected = False
        while True:
            try:
                async with ctl.connected(self._options, "pooler top") as console:
                    connected = True
                    while True:
                        sheet = self._sheet
                        look = await self._looker.look(console.ask, sheet.view)
                        self._trouble = ""
                        if not self._held and sheet is self._sheet:
                            self._last = look
                        self._draw()
                        pause = max(self._options.interval, SHARE * look.cost)
                        await self._pause(pause if sheet is self._sheet else 0.0)
            except ctl.CtlError as error:
                if not connected:
                    self.failure = error
                    self.exit(error.status)
                    return
                self._trouble = error.text
            except (PoolerError, OSError) as error:
                self._trouble = str(error)
            self._draw()
            await self._pause(RETRY)

    async def _pause(self, time: float) -> None:
        """Wait so long, or until something else is to be shown."""
        self._wanted.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), time)

    # -- drawing

    def _draw(self) -> None:
        if not self.query("#rows"):
            return  # not laid out yet
        self.query_one("#head", Static).update(self._head())
        self.query_one("#summary", Static).update(self._summary())
        self.query_one("#sheets", Static).update(self._sheets())
        self._table()

    def _head(self) -> Text:
        state = self._trouble or ("held" if self._held else "live")
        left = f"pooler {pooler.__version__}"
        room = max(self.size.width - 2 - len(left) - 1, 0)
        text = Text(f"{left} {printable(state)[:room].rjust(room)}", no_wrap=True)
        text.stylize("bold", 0, len("pooler"))
        if self._trouble:
            text.stylize("bold reverse", len(text) - min(len(state), room))
        return text

    def _summary(self) -> Text:
        total, lines = self._last.total, self._last.histories
        width = max((self.size.width - 62) // 2, 8)

        def line(name: str, top: float) -> str:
            return spark(list(lines.get(name, ())), top, width)

        size = total["pool_size"] or 0
        highest = {name: max((v or 0 for v in lines.get(name, ())), default=0) for name in lines}
        left = (
            ("Servers", f"{_count(total['working'])}/{_count(size)}", line("working", size)),
            (
                "Waiting",
                _count(total["waiting"]),
                line("waiting", max(highest.get("waiting", 0), 4)),
            ),
            (
                "Trans/s",
                number(total["transactions"]),
                line("transactions", highest.get("transactions", 0)),
            ),
        )
        right = (
            ("Clients", _count(total["clients"]), f"longest wait {seconds(total['oldest_wait'])}"),
            ("Wait", *_percentiles(total, "wait")),
            ("Query", *_percentiles(total, "query")),
        )
        text = Text(no_wrap=True, overflow="ellipsis")
        for place, ((name, value, bars), (other, first, rest)) in enumerate(
            zip(left, right, strict=True)
        ):
            text.append("\n" if place else "")
            text.append(f"{name:<8}", "dim")
            text.append(
                f"{value:>9} ", "bold yellow" if name == "Waiting" and total["waiting"] else "bold"
            )
            text.append(bars, "cyan")
            text.append(f"   {other:<8}", "dim")
            text.append(f"{first:<12} ", "bold")
            text.append(rest)
        return text

    def _sheets(self) -> Text:
        text = Text(no_wrap=True, overflow="ellipsis")
        for sheet in SHEETS:
            here = sheet is self._sheet
            text.append(f" {sheet.key} {sheet.title} ", "bold reverse" if here else "")
        return text

    def _table(self) -> None:
        """Draw the rows, and leave the cursor and what is scrolled to where they are."""
        table = self.query_one("#rows", DataTable)
        columns = [c for c in self._sheet.columns if c.least <= self.size.width]
        sort, falling = self._sort()
        drawn = (self._sheet, len(columns), sort, falling, self._fitted(columns))
        if drawn != self._drawn:
            table.clear(columns=True)
            for column, width in zip(columns, self._fitted(columns), strict=True):
                mark = ("▼" if falling else "▲") if column.name == sort else ""
                title = f"{column.title}{mark}"
                head = Text(title, justify="right" if column.right else "left")
                table.add_column(head, width=width, key=column.name)
            self._drawn = drawn
        rows = self._rows(columns)
        cursor, scroll = table.cursor_row, table.scroll_y
        table.clear()
        for row in rows[:ROWS]:
            table.add_row(*(_cell(column, row) for column in columns))
        table.move_cursor(row=cursor, animate=False, scroll=False)
        table.scroll_to(y=scroll, animate=False, force=True)
        self.query_one("#note", Static).update(self._note(len(rows)))

    def _fitted(self, columns: list[Column]) -> tuple[int, ...]:
        """Return the widths of columns: what is left of the line goes to the last one of text."""
        widths = [column.room for column in columns]
        left = self.size.width - sum(widths) - 2 * len(widths) - 2
        last = max((i for i, column in enumerate(columns) if not column.right), default=None)
        if last is not None and left > 0:
            widths[last] += left
        return tuple(widths)

    def _rows(self, columns: list[Column]) -> list[Row]:
        """Return the rows to show: those that the filter lets through, in order."""
        rows = self._last.rows if self._matches_sheet() else []
        if self._filter:
            part = self._filter.lower()
            rows = [row for row in rows if any(part in _text(c, row).lower() for c in columns)]
        sort, falling = self._sort()
        if sort:
            rows = sorted(rows, key=lambda row: _order(row.get(sort)), reverse=falling)
        return rows

    def _matches_sheet(self) -> bool:
        """Return whether the last look was at this sheet."""
        rows = self._last.rows
        return not rows or self._sheet.columns[0].name in rows[0]

    def _note(self, count: int) -> Text:
        parts = [f"{count} of {len(self._last.rows)}" if self._filter else f"{count}"]
        if count > ROWS:
            parts.append(f"{ROWS} shown")
        if self._filter:
            parts.append(f"with “{self._filter}”")
        return Text(printable(" ".join([*parts, self._sheet.title.lower()])), no_wrap=True)

    # -- keys

    def _sort(self) -> tuple[str, bool]:
        return self._sorts.get(self._sheet.title, (self._sheet.sort, self._sheet.falling))

    def action_sheet(self, place: int) -> None:
        """Show another sheet."""
        self._sheet = SHEETS[place]
        self._last = Look(self._last.total, [], 0.0, self._last.histories)
        self._held = False
        self.query_one(DataTable).move_cursor(row=0)
        self._wanted.set()
        self._draw()

    def action_step(self, by: int) -> None:
        """Show the next sheet."""
        self.action_sheet((SHEETS.index(self._sheet) + by) % len(SHEETS))

    def action_sort(self, by: int) -> None:
        """Sort by the next column."""
        names = [c.name for c in self._sheet.columns if c.least <= self.size.width]
        sort, _ = self._sort()
        place = (names.index(sort) if sort in names else -1) + by
        column = next(c for c in self._sheet.columns if c.name == names[place % len(names)])
        self._sorts[self._sheet.title] = (column.name, column.right)
        self._draw()

    def action_reverse(self) -> None:
        """Sort the other way round."""
        sort, falling = self._sort()
        self._sorts[self._sheet.title] = (sort, not falling)
        self._draw()

    def action_hold(self) -> None:
        """Leave what is shown as it is, or go on."""
        self._held = not self._held
        self._draw()

    def action_filter(self) -> None:
        """Ask for what to show."""
        box = self.query_one("#filter", Input)
        box.add_class("open")
        box.value = self._filter
        box.focus()

    def action_clear(self) -> None:
        """Show all again."""
        self._filter = ""
        self._close_filter()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show what fits what has been typed so far."""
        self._filter = event.value
        self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter."""
        self._close_filter()

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).remove_class("open")
        self.query_one(DataTable).focus()
        self._draw()


def _count(value: Any) -> str:
    return UNKNOWN if value is None else str(value)


def _percentiles(total: Row, kind: str) -> tuple[str, str]:
    p50, p95, p99 = (seconds(total[f"{kind}_p{percent}"]) for percent in (50, 95, 99))
    return f"p95 {p95}", f"p50 {p50} p99 {p99}"


def _text(column: Column, row: Row) -> str:
    value = row if column.name == "use" else row.get(column.name)
    return printable(column.show(value))


def _cell(column: Column, row: Row) -> Text:
    text = Text(_text(column, row), no_wrap=True, overflow="ellipsis")
    text.justify = "right" if column.right else "left"
    if column.name in ("waiting", "waits") and row.get(column.name):
        text.stylize("bold yellow")
    elif column.name in ("trouble", "message"):
        text.stylize("red")
    elif column.name == "reasons":
        text.stylize("magenta")
    return text


def _order(value: Any) -> tuple[int, Any]:
    """What sorts values of any kind: nothing, numbers, texts."""
    if value is None:
        return 0, 0
    return (1, value) if isinstance(value, int | float) else (2, str(value))
