// A chart of some series over the last minutes, drawn by uPlot, with its legend and newest values.

import { h, Component } from "./vendor/preact.mjs";
import { clock } from "./format.js";
import { KEPT } from "./store.js";

const HEIGHT = 148;
const cursor = uPlot.sync("pooler");

// A canvas knows no variables: the colour that something of the page would have now.
const colour = (name) => {
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = `var(--${name})`;
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
};

// Properties: title, note, time, lines [{label, colour, values, fill, dash}], format, top.
// Filled lines that are given the same `stack` lie on each other, the first at the bottom.
export class Chart extends Component {
  constructor(props) {
    super(props);
    this.state = { place: null };
  }

  componentDidMount() {
    this.draw();
    this.observer = new ResizeObserver(() => {
      const width = this.box.clientWidth;
      if (width && this.plot.width !== width) this.plot.setSize({ width, height: HEIGHT });
    });
    this.observer.observe(this.box);
    this.themed = () => this.draw();
    addEventListener("themed", this.themed);
  }

  componentDidUpdate() {
    if (this.drawn === this.newest()) return; // it was the cursor that moved
    this.plot.setData(this.data());
    this.drawn = this.newest();
  }

  newest() {
    return `${this.props.time.at(-1)} ${this.props.time.length}`;
  }

  componentWillUnmount() {
    this.observer.disconnect();
    removeEventListener("themed", this.themed);
    this.plot.destroy();
  }

  data() {
    const lines = [];
    let below = null;
    for (const line of this.props.lines) {
      if (!line.stack) {
        lines.push(line.values.slice());
        continue;
      }
      const under = below;
      below = under === null ? line.values : line.values.map((v, i) => (v === null ? null : v + under[i]));
      lines.push(below);
    }
    return [this.props.time.slice(), ...lines]; // the store goes on adding to its own
  }

  draw() {
    this.plot?.destroy();
    const { lines, format, top } = this.props;
    const axis = { stroke: colour("faint"), font: `11px ${getComputedStyle(document.body).fontFamily}` };
    const grid = { stroke: colour("grid"), width: 1 };
    const bands = [];
    lines.forEach((line, i) => {
      if (line.stack && i > 0 && lines[i - 1].stack) bands.push({ series: [i + 1, i] });
    });
    const options = {
      width: this.box.clientWidth || 300,
      height: HEIGHT,
      padding: [8, 22, 0, 0],
      legend: { show: false },
      bands,
      cursor: {
        y: false,
        drag: { x: false, y: false },
        sync: { key: cursor.key },
        points: { size: 6 },
      },
      hooks: { setCursor: [(plot) => this.point(plot.cursor.idx ?? null)] },
      scales: {
        x: { range: () => this.span() },
        y: { range: (plot, low, high) => [0, Math.max(high * 1.08, top)] },
      },
      axes: [
        {
          ...axis,
          grid: { show: false },
          ticks: { show: false },
          size: 24,
          space: 80,
          incrs: [15, 30, 60, 120],
          values: (plot, times) => times.map((time) => clock(time)),
        },
        {
          ...axis,
          grid,
          ticks: { show: false },
          size: 58,
          gap: 6,
          space: 34,
          values: (plot, values) => values.map((value) => format(value)),
        },
      ],
      series: [
        {},
        ...lines.map((line) => ({
          stroke: colour(line.colour),
          width: 1.6,
          dash: line.dash,
          fill: line.fill ? colour(`${line.colour}-fill`) : undefined,
          points: { show: false },
          spanGaps: false,
        })),
      ],
    };
    this.plot = new uPlot(options, this.data(), this.box);
  }

  point(place) {
    if (place !== this.state.place) this.setState({ place });
  }

  // The last minutes, whether or not there is something of all of them.
  span() {
    const times = this.props.time;
    const end = times.at(-1) ?? Date.now() / 1000;
    const begin = Math.max(times[0] ?? end, end - KEPT);
    return [Math.min(begin, end - 60), end];
  }

  render({ title, note, lines, format, time }, { place }) {
    const at = place !== null && place < time.length ? place : time.length - 1;
    return h("section", { class: "card chart" }, [
      h("header", null, [
        h("h3", null, title),
        h("span", { class: "note" }, place === null ? note : clock(time[at])),
        h(
          "ul",
          { class: "legend" },
          lines.map((line) =>
            h("li", null, [
              h("i", { class: `swatch ${line.colour}${line.dash ? " dashed" : ""}` }),
              `${line.label} `,
              h("b", null, format(line.values[at] ?? null)),
            ]),
          ),
        ),
      ]),
      h("div", { class: "plot", ref: (box) => (this.box = box ?? this.box) }),
    ]);
  }
}
