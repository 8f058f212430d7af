// All that the page knows, and how it comes to know it: events, fetches, commands.

export const KEPT = 300; // samples of each pool, as many as the server keeps
const HERE = location.origin; // without a password that the page's own address may have in it
const AGAIN = 2000; // milliseconds after which what was fetched is fetched again
const FORGOTTEN = 10000; // milliseconds after which what nobody asks for is let go
const HIDDEN = 30000; // milliseconds that a page goes on watching while it is not seen

export const store = {
  about: null, // of /api/
  live: "connecting", // or "live", "lost"
  time: 0, // of the last sample, in seconds of the server's clock
  pools: 0, // how many there are, shown or not
  tables: {}, // by name: {columns, rows, total, objects}
  series: new Map(), // by key of a pool: {database, user, time: [...], clients: [...], ...}
  fetched: new Map(), // by URL: {table, at, asked, error, pending}
  sort: {}, // by table: {column, falling}
  search: "",
  by: "Total", // the order of statements
  notice: null, // {text, bad}
  question: null, // {text, button, action}
};

const listeners = new Set();
let scheduled = false;

export function subscribe(listener) {
  listeners.add(listener);
}

// Draw once, however much has changed; not at all while nobody looks.
export function changed() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    for (const listener of listeners) listener();
  });
}

export const keyOf = (database, user) => JSON.stringify([database, user]);
export const TOTAL = keyOf("", "");

// -- live

let source = null;
let again = 0; // timer of the next attempt, or of the end in a hidden page

// Watch while the page is looked at. A browser has few connections to one server, for all its
// pages: one that is not seen gives its own back.
export function watch() {
  connect();
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", () => source ?? connect());
  document.addEventListener("visibilitychange", () => {
    clearTimeout(again);
    if (document.hidden) again = setTimeout(disconnect, HIDDEN);
    else if (source === null) connect();
  });
}

function disconnect() {
  clearTimeout(again);
  source?.close();
  source = null;
}

function connect() {
  disconnect();
  source = new EventSource(`${HERE}/api/events`);
  source.addEventListener("open", () => setLive("live"));
  source.addEventListener("error", () => {
    setLive("lost");
    // A browser gives up where the answer is no stream, as when there are too many viewers.
    if (source?.readyState === EventSource.CLOSED) again = setTimeout(connect, 5000);
  });
  source.addEventListener("history", (event) => {
    store.series.clear();
    store.time = 0;
    for (const sample of JSON.parse(event.data)) take(sample);
    changed();
  });
  source.addEventListener("frame", (event) => {
    const frame = JSON.parse(event.data);
    if (frame.sample) take(frame.sample);
    for (const [name, table] of Object.entries(frame.tables)) store.tables[name] = withObjects(table);
    changed();
  });
}

function setLive(live) {
  store.live = live;
  if (live === "live") about();
  changed();
}

function take(sample) {
  if (sample.time <= store.time || store.about === null) return;
  const names = store.about.point;
  // Where nobody watched, lines have a gap.
  if (store.time && sample.time - store.time > 5) {
    for (const series of store.series.values()) append(series, store.time + 1, null);
  }
  store.time = sample.time;
  store.pools = sample.pools;
  for (const point of sample.points) {
    const key = keyOf(point[0], point[1]);
    let series = store.series.get(key);
    if (series === undefined) {
      series = { database: point[0], user: point[1], time: [] };
      for (const name of names.slice(2)) series[name] = [];
      store.series.set(key, series);
    }
    append(series, sample.time, point);
  }
  for (const [key, series] of store.series) {
    if (series.time.at(-1) < sample.time - KEPT) store.series.delete(key);
  }
}

function append(series, time, point) {
  const names = store.about.point;
  const old = series.time.length >= KEPT || series.time[0] < time - KEPT;
  series.time.push(time);
  for (let place = 2; place < names.length; place += 1) {
    series[names[place]].push(point === null ? null : point[place]);
  }
  if (old) for (const name of ["time", ...names.slice(2)]) series[name].shift();
}

function withObjects(table) {
  const names = table.columns.map((column) => column.name);
  table.objects = table.rows.map((row) => Object.fromEntries(row.map((value, i) => [names[i], value])));
  return table;
}

export const rowsOf = (name) => store.tables[name]?.objects ?? [];

// -- fetched

export async function about() {
  const response = await fetch(`${HERE}/api/`);
  if (response.ok) store.about = await response.json();
  changed();
}

// What a URL under /api/ gives, fetched now and again while it is asked for.
export function fetched(url) {
  let entry = store.fetched.get(url);
  if (entry === undefined) {
    entry = { table: null, at: 0, asked: 0, error: null, pending: false };
    store.fetched.set(url, entry);
  }
  entry.asked = Date.now();
  for (const [other, { asked }] of store.fetched) {
    if (asked < entry.asked - FORGOTTEN) store.fetched.delete(other);
  }
  if (!entry.pending && entry.asked - entry.at >= AGAIN) refresh(url, entry);
  return entry;
}

async function refresh(url, entry) {
  entry.pending = true;
  try {
    const response = await fetch(HERE + url);
    const body = await response.json();
    entry.error = response.ok ? null : body.error;
    if (response.ok) entry.table = withObjects(body);
  } catch (error) {
    entry.error = String(error);
  }
  entry.at = Date.now();
  entry.pending = false;
  changed();
}

// -- commands

export async function command(name, args = {}) {
  let text;
  let bad = true;
  try {
    const response = await fetch(`${HERE}/api/commands/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Pooler": "1" },
      body: JSON.stringify(args),
    });
    bad = !response.ok;
    if (response.headers.get("Content-Type")?.startsWith("application/json")) {
      const body = await response.json();
      text = response.ok ? body.result : [body.error, body.detail, body.hint].filter(Boolean).join(" ");
    } else {
      text = await response.text();
    }
  } catch (error) {
    text = String(error);
  }
  notify(text, bad);
}

export function ask(text, button, action) {
  store.question = { text, button, action };
  changed();
}

function notify(text, bad) {
  const notice = { text, bad };
  store.notice = notice;
  changed();
  setTimeout(() => {
    if (store.notice === notice) store.notice = null;
    changed();
  }, 6000);
}
