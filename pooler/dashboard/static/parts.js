// What pages are built of: tables, tiles, bars, badges. Texts go in as text: nothing is markup.

import { h } from "./vendor/preact.mjs";
import { UNKNOWN, count, seconds } from "./format.js";
import { ask, changed, command, store } from "./store.js";

export const poolLink = (database, user) =>
  `#/pool/${encodeURIComponent(database)}/${encodeURIComponent(user)}`;
export const clientLink = (id) => `#/client/${id}`;

export function PoolName({ database, user }) {
  return h("a", { class: "poolname", href: poolLink(database, user), title: `${database} / ${user}` }, [
    h("b", null, database),
    h("span", null, user),
  ]);
}

export function ClientName({ id, address, application, user }) {
  if (id === null || id === undefined) return h("span", { class: "muted" }, address ?? UNKNOWN);
  return h("a", { class: "clientname", href: clientLink(id), title: application || address }, [
    h("b", null, application || user || `client ${id}`),
    h("span", null, address),
  ]);
}

const TONES = {
  active: "active",
  idle: "idle",
  waiting: "warn",
  "idle in transaction": "warn",
  "idle in transaction (aborted)": "bad",
  pinned: "pin",
  kept: "pin",
  paused: "warn",
  disabled: "bad",
  failing: "bad",
};

export function Badge({ text, tone, title }) {
  return h("span", { class: `badge ${tone ?? TONES[text] ?? "other"}`, title }, text);
}

// How much of a pool is in use: servers at work, idle, in between, and room for more.
export function Use({ pool }) {
  const size = Math.max(pool.pool_size, pool.servers, 1);
  const part = (name, value) =>
    value > 0 && h("i", { class: name, style: { width: `${(100 * value) / size}%` } });
  const title =
    `${pool.working} at work, ${pool.idle} idle, ${pool.opening} being opened, ` +
    `${pool.leaving} leaving; at most ${pool.pool_size}`;
  return h("div", { class: "use", title }, [
    h("div", { class: "bar" }, [
      part("working", pool.working),
      part("idle", pool.idle),
      part("other", pool.opening + pool.leaving),
    ]),
    h("span", null, [h("b", null, pool.working), ` / ${pool.pool_size || UNKNOWN}`]),
  ]);
}

// The last minutes in a line as high as text; gaps are gaps.
export function Spark({ values, tone = "active", top = 0, width = 96, height = 24 }) {
  const shown = values.slice(-120);
  const high = Math.max(top, ...shown.map((value) => value ?? 0), 1e-9);
  const step = width / Math.max(shown.length - 1, 1);
  let path = "";
  let pen = false;
  shown.forEach((value, i) => {
    if (value === null) {
      pen = false;
      return;
    }
    const y = height - 2 - (value / high) * (height - 4);
    path += `${pen ? "L" : "M"}${(i * step).toFixed(1)} ${y.toFixed(1)}`;
    pen = true;
  });
  return h(
    "svg",
    { class: `spark ${tone}`, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    h("path", { d: path }),
  );
}

export function Tile({ label, value, note, tone, spark, sparkTone }) {
  return h("div", { class: `card tile ${tone ?? ""}` }, [
    h("span", { class: "label" }, label),
    h("strong", null, value),
    h("span", { class: "note" }, note),
    spark && h(Spark, { values: spark, tone: sparkTone, width: 120, height: 28 }),
  ]);
}

export function Card({ title, note, extra, children, id }) {
  return h("section", { class: "card", id }, [
    h("header", null, [
      h("h2", null, title),
      note !== undefined && h("span", { class: "note" }, note),
      extra && h("div", { class: "extra" }, extra),
    ]),
    children,
  ]);
}

export const Empty = ({ text }) => h("p", { class: "empty" }, text);

// A table of rows. A column has `title`, `cell(row)`, and, to be sorted by, `value(row)`; its `kind`
// is "num" for figures, "text" for what may be long; `wide` ones are not shown on a phone.
// `most` is how many rows there are in all, where not all are here.
export function Table({ id, columns, rows, rowKey, empty, most, limit }) {
  if (!rows.length) return h(Empty, { text: empty });
  const sort = store.sort[id];
  const by = sort && columns.find((column) => column.title === sort.column);
  let shown = rows;
  if (by) {
    shown = [...rows].sort((a, b) => compare(by.value(a), by.value(b)) * (sort.falling ? -1 : 1));
  }
  if (limit) shown = shown.slice(0, limit);
  const kinds = (column) => [column.kind, column.wide ? "wide" : ""].join(" ");
  const heads = columns.map((column) => {
    const falling = sort?.column === column.title ? sort.falling : undefined;
    const order = falling === undefined ? undefined : falling ? "descending" : "ascending";
    const resort = () => {
      store.sort[id] = { column: column.title, falling: falling === undefined ? column.kind === "num" : !falling };
      changed();
    };
    return h("th", { class: kinds(column), "aria-sort": order, title: column.tip }, [
      column.value ? h("button", { onClick: resort }, column.title) : column.title,
    ]);
  });
  return h("div", { class: "scroll" }, [
    h("table", { id }, [
      h("thead", null, h("tr", null, heads)),
      h(
        "tbody",
        null,
        shown.map((row) =>
          h(
            "tr",
            { key: rowKey(row) },
            columns.map((column) => h("td", { class: kinds(column) }, column.cell(row))),
          ),
        ),
      ),
    ]),
    most > shown.length && h("p", { class: "more" }, `${count(shown.length)} of ${count(most)} shown`),
  ]);
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  return a < b ? -1 : 1;
}

// Column makers.
export const column = (title, cell, more = {}) => ({ title, cell, value: cell, ...more });
export const figure = (title, name, format = count, more = {}) => ({
  title,
  cell: (row) => format(row[name]),
  value: (row) => row[name],
  kind: "num",
  ...more,
});
export const age = (title, name, more = {}) => figure(title, name, seconds, more);

// A button that does something, for those who may.
export function Act({ name, args, text, question, danger }) {
  if (!store.about?.user || !(name in store.about.commands)) return null;
  const run = () => command(name, args);
  const click = question ? () => ask(question, text, run) : run;
  return h("button", { class: `act ${danger ? "danger" : ""}`, onClick: click }, text);
}

export function Facts({ facts }) {
  return h(
    "dl",
    { class: "facts" },
    facts
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => h("div", null, [h("dt", null, name), h("dd", null, value)])),
  );
}
