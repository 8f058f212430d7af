// The frame around the pages: header, navigation, notices; and which page is shown.

import { h, render } from "./vendor/preact.mjs";
import * as pages from "./pages.js";
import { UNKNOWN } from "./format.js";
import { Act } from "./parts.js";
import { about, changed, rowsOf, store, subscribe, watch } from "./store.js";

const NAVIGATION = [
  ["", "Overview", pages.Overview],
  ["clients", "Clients", pages.ClientsPage],
  ["holders", "Servers", pages.HoldersPage],
  ["waiters", "Waiting", pages.WaitersPage],
  ["pins", "Pins", pages.PinsPage],
  ["statements", "Statements", pages.StatementsPage],
  ["errors", "Errors", pages.ErrorsPage],
  ["reload", "Reload", pages.ReloadPage],
];

function route() {
  const [name = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  let args = [];
  try {
    args = rest.map(decodeURIComponent);
  } catch {
    return h(pages.Overview);
  }
  if (name === "pool" && args.length === 2) return h(pages.PoolPage, { database: args[0], user: args[1] });
  if (name === "client" && args.length === 1) return h(pages.ClientPage, { id: args[0] });
  return h((NAVIGATION.find(([path]) => path === name) ?? NAVIGATION[0])[2]);
}

function Header() {
  const [here] = location.hash.replace(/^#\/?/, "").split("/");
  const counts = { waiters: store.tables.waiters?.total, pins: store.tables.pins?.total };
  return h("header", { class: "top" }, [
    h("a", { class: "brand", href: "#/" }, [h("img", { src: "/static/icon.svg", alt: "", width: 24, height: 24 }), "pooler"]),
    h(
      "nav",
      null,
      NAVIGATION.map(([path, text]) =>
        h("a", { href: `#/${path}`, class: path === here ? "here" : "", "aria-current": path === here ? "page" : undefined }, [
          text,
          counts[path] ? h("span", { class: `count ${path}` }, counts[path]) : null,
        ]),
      ),
    ),
    h("div", { class: "side" }, [h(Live), h(Who), h(Theme)]),
  ]);
}

const LIVE = { live: "live", connecting: "connecting", lost: "no connection" };

function Live() {
  const state = Object.fromEntries(rowsOf("state").map((row) => [row.key, row.value]));
  const stopping = state.shutting_down === "yes" && store.live === "live";
  const paused = state.paused === "yes" && store.live === "live";
  const text = stopping ? "shutting down" : paused ? "paused" : LIVE[store.live];
  const tone = stopping || paused ? "warn" : store.live;
  return h("span", { class: `live ${tone}`, role: "status", title: store.about ? `pooler ${store.about.version}, ${store.about.build}` : UNKNOWN }, [
    h("i"),
    h("span", null, text),
  ]);
}

function Who() {
  if (!store.about?.can_log_in) return null;
  if (store.about.user) return h("span", { class: "who", title: "Logged in until the browser is closed" }, store.about.user);
  return h("a", { class: "login", href: "/login" }, "Log in");
}

const THEMES = { "": "◐", light: "○", dark: "●" };
const NAMES = { "": "the system's", light: "light", dark: "dark" };

function Theme() {
  const theme = document.documentElement.dataset.theme ?? "";
  const next = () => {
    const order = Object.keys(THEMES);
    const chosen = order[(order.indexOf(theme) + 1) % order.length];
    if (chosen) {
      document.documentElement.dataset.theme = chosen;
      localStorage.setItem("theme", chosen);
    } else {
      delete document.documentElement.dataset.theme;
      localStorage.removeItem("theme");
    }
    dispatchEvent(new Event("themed"));
    changed();
  };
  const label = `Colours: ${NAMES[theme]}`;
  return h("button", { class: "theme", onClick: next, title: label, "aria-label": label }, THEMES[theme]);
}

function Question() {
  const { question } = store;
  if (question === null) return null;
  const close = () => {
    store.question = null;
    changed();
  };
  const yes = () => {
    close();
    question.action();
  };
  return h("dialog", { ref: (dialog) => dialog && !dialog.open && dialog.showModal(), onClose: close }, [
    h("p", null, question.text),
    h("div", { class: "acts" }, [
      h("button", { class: "act", onClick: close }, "Cancel"),
      h("button", { class: "act danger", onClick: yes }, question.button),
    ]),
  ]);
}

function App() {
  return [
    h(Header),
    h("main", null, store.about === null ? h("p", { class: "empty" }, "…") : route()),
    h("footer", null, [
      store.about && `pooler ${store.about.version}, ${store.about.build}`,
      h("a", { href: "/metrics" }, "Metrics"),
      h("a", { href: "/api/" }, "API"),
      h(Act, { name: "reload", args: {}, text: "Reload configuration", question: "Read the configuration again, and go by it?" }),
    ]),
    store.notice && h("div", { class: `notice ${store.notice.bad ? "bad" : ""}`, role: "alert" }, store.notice.text),
    h(Question),
  ];
}

const draw = () => render(h(App), document.getElementById("app"));

subscribe(draw);
addEventListener("hashchange", () => {
  scrollTo(0, 0);
  changed();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  dispatchEvent(new Event("themed"));
});
draw();
await about();
watch();
