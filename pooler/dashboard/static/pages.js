// The pages. Each is a function of what the store holds.

import { h } from "./vendor/preact.mjs";
import { Chart } from "./chart.js";
import * as format from "./format.js";
import { Act, Badge, Card, ClientName, Empty, Facts, PoolName, Spark, Table, Tile, Use } from "./parts.js";
import { age, column, figure } from "./parts.js";
import { TOTAL, changed, fetched, keyOf, rowsOf, store } from "./store.js";

const { count, rate, seconds } = format;
const last = (values) => values?.at(-1) ?? null;
const seriesOf = (database, user) => store.series.get(keyOf(database, user));
const sum = (rows, name) => rows.reduce((total, row) => total + row[name], 0);

// -- charts

function Charts({ series, all }) {
  const time = series.time;
  const line = (label, name, colour, more = {}) => ({ label, colour, values: series[name], ...more });
  const percentiles = (kind) => [
    line("p99", `${kind}_p99`, "p99"),
    line("p95", `${kind}_p95`, "p95"),
    line("p50", `${kind}_p50`, "p50"),
  ];
  const window = `last ${store.about.window} s`;
  return h("div", { class: "charts" }, [
    h(Chart, {
      title: "Server connections",
      time,
      format: count,
      top: 4,
      lines: [
        line("in use", "working", "active", { fill: true, stack: true }),
        line("idle", "idle", "idle", { fill: true, stack: true }),
        line("size", "pool_size", "limit", { dash: [4, 4] }),
      ],
    }),
    h(Chart, {
      title: "Waiting clients",
      note: `${count(last(series.clients))} connected`,
      time,
      format: count,
      top: 4,
      lines: [line("waiting", "waiting", "warn", { fill: true })],
    }),
    h(Chart, { title: "Wait for a server", note: window, time, format: seconds, top: 0.001, lines: percentiles("wait") }),
    h(Chart, { title: "Query time", note: window, time, format: seconds, top: 0.001, lines: percentiles("query") }),
    h(Chart, {
      title: "Throughput",
      note: "per second",
      time,
      format: format.short,
      top: 4,
      lines: [line("queries", "queries", "active", { fill: true }), line("transactions", "transactions", "p99")],
    }),
    all
      ? h(Chart, {
          title: "Errors",
          note: "per second",
          time,
          format: format.short,
          top: 1,
          lines: [line("errors", "errors", "bad", { fill: true })],
        })
      : h(Chart, {
          title: "Traffic",
          note: "per second",
          time,
          format: format.bytes,
          top: 1000,
          lines: [line("to clients", "sent", "active", { fill: true }), line("from clients", "received", "p99")],
        }),
  ]);
}

function Tiles({ series, pools }) {
  const size = last(series.pool_size);
  const working = last(series.working);
  const waiting = last(series.waiting);
  const oldest = last(series.oldest_wait);
  const errors = last(series.errors);
  const unopened = size - sum(pools, "servers");
  const use = size ? working / size : 0;
  return h("div", { class: "tiles" }, [
    h(Tile, {
      label: "Servers in use",
      value: [count(working), h("small", null, ` / ${count(size)}`)],
      note: `${count(last(series.idle))} idle${unopened > 0 ? `, ${count(unopened)} not opened` : ""}`,
      tone: use >= 1 && waiting ? "warn" : "",
      spark: series.working,
    }),
    h(Tile, {
      label: "Waiting clients",
      value: count(waiting),
      note: waiting ? `the first for ${seconds(oldest)}` : `of ${count(last(series.clients))}`,
      tone: waiting ? "warn" : "",
      spark: series.waiting,
      sparkTone: "warn",
    }),
    h(Tile, {
      label: "Wait, p95",
      value: seconds(last(series.wait_p95)),
      note: `median ${seconds(last(series.wait_p50))}`,
      spark: series.wait_p95,
      sparkTone: "p95",
    }),
    h(Tile, {
      label: "Transactions",
      value: rate(last(series.transactions)),
      note: `${rate(last(series.queries))} queries`,
      spark: series.transactions,
    }),
    h(Tile, {
      label: "Query, p95",
      value: seconds(last(series.query_p95)),
      note: `median ${seconds(last(series.query_p50))}`,
      spark: series.query_p95,
      sparkTone: "p95",
    }),
    h(Tile, {
      label: "Errors",
      value: rate(errors),
      note: "told to clients",
      tone: errors ? "bad" : "",
      spark: series.errors,
      sparkTone: "bad",
    }),
  ]);
}

// -- tables

const poolBadges = (pool) => [
  pool.failing_seconds !== null &&
    h(Badge, { text: "failing", title: `for ${seconds(pool.failing_seconds)}: ${pool.last_error}` }),
  pool.paused && h(Badge, { text: "paused" }),
  pool.disabled && h(Badge, { text: "disabled" }),
];

function PoolsTable({ rows }) {
  const now = (name) => (pool) => last(seriesOf(pool.database, pool.user)?.[name]);
  const measure = (title, name, write, more = {}) => ({
    title,
    cell: (pool) => write(now(name)(pool)),
    value: now(name),
    kind: "num",
    ...more,
  });
  return h(Table, {
    id: "pools",
    rows,
    rowKey: (pool) => keyOf(pool.database, pool.user),
    empty: "No pool yet: the first client makes one.",
    most: store.tables.occupancy?.total,
    columns: [
      {
        title: "Pool",
        cell: (pool) => h("div", { class: "named" }, [h(PoolName, pool), ...poolBadges(pool)]),
        value: (pool) => keyOf(pool.database, pool.user),
      },
      {
        title: "Servers in use",
        cell: (pool) => h(Use, { pool }),
        value: (pool) => pool.working / (pool.pool_size || 1),
      },
      figure("Clients", "clients", count, { wide: true }),
      {
        title: "Waiting",
        cell: (pool) => (pool.waiting ? h(Badge, { text: count(pool.waiting), tone: "warn" }) : "0"),
        value: (pool) => pool.waiting,
        kind: "num",
      },
      age("Longest", "oldest_wait", { wide: true, tip: "How long the first in line has waited" }),
      measure("Wait p50", "wait_p50", seconds, { wide: true }),
      measure("p95", "wait_p95", seconds),
      measure("p99", "wait_p99", seconds, { wide: true }),
      measure("Query p95", "query_p95", seconds, { wide: true }),
      measure("Trans./s", "transactions", format.short, { wide: true }),
      figure("Pinned", "pinned", count, { wide: true }),
      {
        title: "2 minutes",
        tip: "Servers in use",
        cell: (pool) =>
          h(Spark, { values: seriesOf(pool.database, pool.user)?.working ?? [], top: pool.pool_size }),
        wide: true,
      },
    ],
  });
}

function HoldersTable({ rows, one, most, limit }) {
  return h(Table, {
    id: "holders",
    rows,
    rowKey: (row) => row.server,
    empty: "No server connection is in use.",
    most,
    limit,
    columns: [
      column("Held by", (row) => row.application_name || row.address, {
        cell: (row) =>
          h(ClientName, { id: row.client, address: row.address, application: row.application_name, user: row.client_user }),
      }),
      ...(one ? [] : [column("Pool", (row) => row.database, { cell: (row) => h(PoolName, { database: row.database, user: row.server_user }), wide: true })]),
      column("Does", (row) => row.activity, { cell: (row) => h(Badge, { text: row.activity }) }),
      {
        title: "For",
        cell: (row) => seconds(row.query_seconds ?? row.idle_seconds),
        value: (row) => row.query_seconds ?? row.idle_seconds,
        kind: "num",
      },
      age("Transaction", "transaction_seconds", { wide: true }),
      column("Server", (row) => row.server, {
        cell: (row) => h("span", { title: row.host }, [`s${row.server} `, h("small", null, `pid ${row.pid}`)]),
        wide: true,
      }),
      { title: "", cell: (row) => row.client !== null && h(Kill, { id: row.client }), wide: true },
    ],
  });
}

function WaitersTable({ rows, one, brief, most, limit }) {
  return h(Table, {
    id: "waiters",
    rows,
    rowKey: (row) => row.client,
    empty: "Nobody waits.",
    most,
    limit,
    columns: [
      column("Place", (row) => row.place, { kind: "place" }),
      column("Client", (row) => row.application_name || row.address, {
        cell: (row) =>
          h(ClientName, { id: row.client, address: row.address, application: row.application_name, user: row.user }),
      }),
      ...(one ? [] : [column("Pool", (row) => `${row.database} / ${row.user}`, { wide: true })]),
      age("For", "seconds"),
      ...(brief ? [] : [column("Waits for", (row) => row.waits_for, { kind: "text", wide: true })]),
    ],
  });
}

function PinsTable({ rows, one, brief, most, limit }) {
  return h(Table, {
    id: "pins",
    rows,
    rowKey: (row) => `${row.server} ${row.client}`,
    empty: "No client keeps a server connection.",
    most,
    limit,
    columns: [
      column("Client", (row) => row.application_name || row.address, {
        cell: (row) =>
          h(ClientName, { id: row.client, address: row.address, application: row.application_name, user: row.user }),
      }),
      ...(one || brief ? [] : [column("Database", (row) => row.database, { wide: true })]),
      column("Why", (row) => row.reasons, {
        cell: (row) => row.reasons.split(", ").map((reason) => h(Badge, { text: reason, tone: "pin", title: row.instead })),
      }),
      column("Statement", (row) => row.statement, { kind: "text", cell: (row) => h("code", null, row.statement) }),
      ...(brief ? [] : [column("Server", (row) => row.server, { cell: (row) => `s${row.server}`, wide: true })]),
      age("For", "seconds"),
      { title: "", cell: (row) => h(Act, { name: "unpin", args: { client: row.client }, text: "End" }), wide: true },
    ],
  });
}

function ErrorsTable({ rows, one, most, limit }) {
  return h(Table, {
    id: "errors",
    rows,
    rowKey: (row) => [row.event, row.database, row.user, row.sqlstate, row.message].join("\n"),
    empty: "Nothing went wrong yet.",
    most,
    limit,
    columns: [
      column("Last", (row) => row.last, { cell: (row) => h("time", { title: row.last }, when(row.last)) }),
      column("Event", (row) => row.event, { kind: "text", wide: true }),
      ...(one ? [] : [column("Pool", (row) => [row.database, row.user].filter(Boolean).join(" / "), { wide: true })]),
      column("SQLSTATE", (row) => row.sqlstate, { cell: (row) => row.sqlstate && h("code", null, row.sqlstate), wide: true }),
      column("Message", (row) => row.message, { kind: "text" }),
      figure("Times", "count"),
    ],
  });
}

const stamp = (text) => Date.parse(text.replace(" UTC", "Z").replace(" ", "T")) / 1000;
const when = (text) => (text ? format.moment(stamp(text)) : format.UNKNOWN);
const since = (text) => (text ? seconds(Math.max(0, Math.round(store.time - stamp(text)))) : null);

function Kill({ id }) {
  return h(Act, {
    name: "kill_client",
    args: { client: id },
    text: "Kill",
    question: `Disconnect client ${id}? Its query is cancelled and its transaction rolled back.`,
    danger: true,
  });
}

function statementsNote() {
  const { sample } = store.about;
  if (sample === 0) return "not recorded: queries.statistics is off";
  return sample === 1 ? "of all transactions" : `of one in ${count(sample)} transactions`;
}

// The orders of statements, by the column that each is of.
const ORDERS = { Total: ["Most time", "time"], p95: ["Slowest", "time_p95"], Calls: ["Most frequent", "calls"], Wait: ["Longest waits", "wait_time"] };

function Statements({ rows, most, one, limit }) {
  const order = store.sort.statements?.column ?? store.by;
  const choose = (name) => () => {
    store.by = name;
    store.sort.statements = { column: name, falling: true };
    changed();
  };
  store.sort.statements ??= { column: store.by, falling: true };
  return [
    h(
      "div",
      { class: "choices" },
      Object.entries(ORDERS).map(([name, [text]]) =>
        h("button", { class: order === name ? "chosen" : "", onClick: choose(name), "aria-pressed": String(order === name) }, text),
      ),
    ),
    h(Table, {
      id: "statements",
      rows,
      rowKey: (row) => `${row.database}\n${row.user}\n${row.id}`,
      empty: "No statement has been recorded.",
      limit,
      most,
      columns: [
        column("Statement", (row) => row.statement, {
          kind: "text",
          cell: (row) => h("code", { class: "sql", title: row.statement }, row.statement),
        }),
        ...(one ? [] : [column("Pool", (row) => `${row.database} / ${row.user}`, { cell: (row) => h(PoolName, row), wide: true })]),
        figure("Calls", "calls", format.short),
        age("Total", "time", { tip: "Time of servers on it, since the start" }),
        age("p50", "time_p50", { wide: true }),
        age("p95", "time_p95"),
        age("p99", "time_p99", { wide: true }),
        age("Longest", "time_max", { wide: true }),
        age("Wait", "wait_time", { wide: true, tip: "Time that clients have waited for a server to run it, since the start" }),
        figure("Rows", "rows", format.short, { wide: true }),
        figure("Errors", "errors", format.short, { wide: true }),
      ],
    }),
  ];
}

// All that is recorded, in the order that was chosen, as far as a page can show it.
function AllStatements({ query, one, limit }) {
  const { table, error } = fetched(`/api/statements?limit=${limit}&sort=-${ORDERS[store.by][1]}${query}`);
  if (error) return h(Empty, { text: error });
  if (table === null) return h(Empty, { text: "…" });
  return h(Statements, { rows: table.objects, most: table.total, one });
}

// -- pages

export function Overview() {
  const series = store.series.get(TOTAL);
  const pools = rowsOf("occupancy").filter((pool) => pool.pool_size);
  if (series === undefined) return h(Empty, { text: "Waiting for the first figures …" });
  return [
    h(Tiles, { series, pools }),
    h(Card, { title: "Pools", note: count(store.pools) }, h(PoolsTable, { rows: pools })),
    h(Charts, { series, all: true }),
    h("div", { class: "columns" }, [
      h(Card, { title: "Who holds what", extra: more("holders") }, h(HoldersTable, { rows: held(rowsOf("queries")), limit: 8 })),
      h("div", { class: "stack" }, [
        h(Card, { title: "Who waits", extra: more("waiters") }, h(WaitersTable, { rows: rowsOf("waiters"), limit: 4, brief: true })),
        h(Card, { title: "Pins", note: "servers kept by their client", extra: more("pins") }, h(PinsTable, { rows: rowsOf("pins"), limit: 4, brief: true })),
      ]),
    ]),
    h(Card, { title: "Statements", note: statementsNote(), extra: more("statements") }, h(Statements, { rows: rowsOf("statements"), limit: 8 })),
    h("div", { class: "columns uneven" }, [
      h(Card, { title: "Recent errors", extra: more("errors") }, h(ErrorsTable, { rows: rowsOf("errors"), limit: 6 })),
      h(Card, { title: "Last reload", extra: more("reload") }, h(Reload)),
    ]),
  ];
}

const held = (rows) => rows.filter((row) => row.activity !== "idle" && row.activity !== "leaving");
const more = (page) => h("a", { href: `#/${page}` }, "All");

export function HoldersPage() {
  const table = store.tables.queries;
  return h(Card, { title: "Server connections", note: "who holds what" }, h(HoldersTable, { rows: rowsOf("queries"), most: table?.total }));
}

export function WaitersPage() {
  const table = store.tables.waiters;
  return h(Card, { title: "Waiting clients", note: "in order" }, h(WaitersTable, { rows: rowsOf("waiters"), most: table?.total }));
}

export function PinsPage() {
  const table = store.tables.pins;
  return h(Card, { title: "Pins", note: "server connections kept by their client, and why" }, h(PinsTable, { rows: rowsOf("pins"), most: table?.total }));
}

export function StatementsPage() {
  return h(Card, { title: "Statements", note: statementsNote() }, h(AllStatements, { query: "", limit: 300 }));
}

export function ErrorsPage() {
  const table = store.tables.errors;
  return h(Card, { title: "Recent errors", note: "the same things counted" }, h(ErrorsTable, { rows: rowsOf("errors"), most: table?.total }));
}

export function ReloadPage() {
  return h(Card, { title: "Last reload" }, h(Reload));
}

function Reload() {
  return h(Table, {
    id: "reload",
    rows: rowsOf("reload"),
    rowKey: (row) => row.setting,
    empty: "No reload has changed anything since the start.",
    columns: [
      column("Setting", (row) => row.setting, { kind: "text", cell: (row) => h("code", null, breakable(row.setting)) }),
      column("Before", (row) => row.before, { kind: "text", cell: (row) => row.before ?? h("span", { class: "muted" }, "not there") }),
      column("Now", (row) => row.now, { kind: "text", cell: (row) => h("b", null, row.now ?? "removed") }),
    ],
  });
}

// A name with dots, which may be continued on the next line behind each.
const breakable = (name) => name.split(".").flatMap((part, i) => (i ? [".", h("wbr"), part] : [part]));

export function ClientsPage() {
  const url = `/api/clients?limit=200&search=${encodeURIComponent(store.search)}`;
  const search = (event) => {
    store.search = event.target.value;
    changed();
  };
  return h(
    Card,
    {
      title: "Clients",
      extra: h("input", { type: "search", placeholder: "Name, user, database, address …", "aria-label": "Search clients", value: store.search, onInput: search }),
    },
    h(Clients, { url }),
  );
}

function Clients({ url, one }) {
  const { table, error } = fetched(url);
  if (error) return h(Empty, { text: error });
  if (table === null) return h(Empty, { text: "…" });
  return h(Table, {
    id: "clients",
    rows: table.objects,
    rowKey: (row) => row.id,
    empty: "No such client.",
    most: table.total,
    columns: [
      column("Client", (row) => row.application_name || row.addr, {
        cell: (row) =>
          h(ClientName, { id: row.id, address: peer(row), application: row.application_name, user: row.user }),
      }),
      ...(one
        ? []
        : [column("Pool", (row) => row.database, { cell: (row) => h("span", { class: "stacked" }, [h("b", null, row.database), h("span", null, row.user)]) })]),
      column("State", (row) => row.state, { cell: (row) => h(Badge, { text: row.state }) }),
      { title: "Waits for", cell: (row) => (row.state === "waiting" ? seconds(row.wait + row.wait_us / 1e6) : ""), value: (row) => row.wait + row.wait_us / 1e6, kind: "num", wide: true },
      column("Server", (row) => row.link, { wide: true }),
      column("Connected", (row) => row.connect_time, { cell: (row) => h("time", { title: row.connect_time }, since(row.connect_time)), wide: true }),
      column("Last request", (row) => row.request_time, { cell: (row) => h("time", { title: row.request_time }, since(row.request_time)) }),
      column("TLS", (row) => row.tls, { cell: (row) => row.tls || "no", wide: true }),
      { title: "", cell: (row) => h(Kill, { id: row.id }), wide: true },
    ],
  });
}

const peer = (row) => (row.addr === "unix" ? "unix" : `${row.addr.includes(":") ? `[${row.addr}]` : row.addr}:${row.port}`);

export function PoolPage({ database, user }) {
  const pool = rowsOf("occupancy").find((row) => row.database === database && row.user === user);
  const counts = rowsOf("pools").find((row) => row.database === database && row.user === user);
  const series = seriesOf(database, user);
  const mine = (rows, name = "user") => rows.filter((row) => row.database === database && row[name] === user);
  const url = `/api/clients?limit=100&database=${encodeURIComponent(database)}`;
  return [
    h("div", { class: "title" }, [
      h("a", { class: "back", href: "#/" }, "Pools"),
      h("h1", null, [database, h("span", null, ` / ${user}`)]),
      counts && h(Badge, { text: `${counts.pool_mode} mode`, tone: "other" }),
      ...(pool ? poolBadges(pool) : []),
      h("div", { class: "acts" }, [
        pool?.paused
          ? h(Act, { name: "resume", args: { database }, text: "Resume" })
          : h(Act, { name: "pause", args: { database }, text: "Pause", question: `Pause ${database}? Its clients wait until it is resumed.` }),
        h(Act, { name: "reconnect", args: { database }, text: "Reconnect", question: `Open new server connections for ${database}? Each old one closes when it is free.` }),
      ]),
    ]),
    series === undefined && h(Empty, { text: store.live === "live" && pool === undefined ? "There is no such pool now." : "No figures of this pool." }),
    pool?.last_error && h("p", { class: "alert" }, pool.last_error),
    series && pool && h(Tiles, { series, pools: [pool] }),
    series && h(Charts, { series }),
    h("div", { class: "columns" }, [
      h(Card, { title: "Who holds what" }, h(HoldersTable, { rows: held(mine(rowsOf("queries"), "server_user")), one: true })),
      h(Card, { title: "Who waits" }, h(WaitersTable, { rows: rowsOf("waiters").filter((row) => row.database === database), one: true })),
    ]),
    h(Card, { title: "Pins" }, h(PinsTable, { rows: rowsOf("pins").filter((row) => row.database === database), one: true })),
    h(Card, { title: "Statements", note: statementsNote() }, h(AllStatements, { query: `&database=${encodeURIComponent(database)}&user=${encodeURIComponent(user)}`, one: true, limit: 30 })),
    h(Card, { title: "Recent errors" }, h(ErrorsTable, { rows: rowsOf("errors").filter((row) => row.database === database), one: true })),
    h(Card, { title: "Clients", note: `of database ${database}` }, h(Clients, { url, one: false })),
  ];
}

export function ClientPage({ id }) {
  const { table, error } = fetched(`/api/clients?id=${encodeURIComponent(id)}`);
  const client = table?.objects[0];
  if (error) return h(Empty, { text: error });
  if (table === null) return h(Empty, { text: "…" });
  const title = (name, extra) =>
    h("div", { class: "title" }, [h("a", { class: "back", href: "#/clients" }, "Clients"), h("h1", null, name), ...extra]);
  if (client === undefined) return [title(`Client ${id}`, []), h(Empty, { text: "There is no such client any more." })];
  const number = Number(id);
  const server = rowsOf("queries").find((row) => row.client === number);
  const pin = rowsOf("pins").find((row) => row.client === number);
  const waiter = rowsOf("waiters").find((row) => row.client === number);
  return [
    title(client.application_name || `Client ${id}`, [
      h(Badge, { text: client.state }),
      pin && h(Badge, { text: "pinned" }),
      h("div", { class: "acts" }, [
        pin && h(Act, { name: "unpin", args: { client: number }, text: "End pin" }),
        h(Kill, { id: number }),
      ]),
    ]),
    h("div", { class: "columns" }, [
      h(Card, { title: "Client" }, h(Facts, {
        facts: [
          ["Number", client.id],
          ["Application", client.application_name],
          ["Database", client.database],
          ["User", client.user],
          ["Address", peer(client)],
          ["Encryption", client.tls || "none"],
          ["Connected for", since(client.connect_time)],
          ["Last request", `${since(client.request_time)} ago`],
          ["Prepared statements", count(client.prepared_statements)],
          ["Replication", client.replication === "none" ? null : client.replication],
        ],
      })),
      h(Card, { title: "Server" }, server
        ? h(Facts, {
            facts: [
              ["Server", `s${server.server}`],
              ["Process of PostgreSQL", server.pid],
              ["Host", server.host],
              ["User", server.server_user],
              ["Does", h(Badge, { text: server.activity })],
              ["Query for", server.query_seconds === null ? null : seconds(server.query_seconds)],
              ["Transaction for", server.transaction_seconds === null ? null : seconds(server.transaction_seconds)],
            ],
          })
        : waiter
          ? h(Facts, { facts: [["Waits for", waiter.waits_for], ["Since", seconds(waiter.seconds)], ["Place in line", waiter.place]] })
          : h(Empty, { text: "It has none now: one is given to it when it asks for something." })),
    ]),
    pin && h(Card, { title: "Pin" }, h(Facts, {
      facts: [
        ["Why", pin.reasons],
        ["Statement", h("code", null, pin.statement)],
        ["For", seconds(pin.seconds)],
        ["Limit", pin.pin_timeout ? seconds(pin.pin_timeout) : "none"],
        ["Without a pin", pin.instead],
      ],
    })),
  ];
}
