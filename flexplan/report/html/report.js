"use strict";
(() => {
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("charts");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isNarrow = () => innerWidth < 640;
const colourOf = (lane) => data.colours[lane] || (lane ? "#64748b" : css("--idle"));

function seconds(s) {
  if (!s) return "0";
  for (const [from, unit, name] of [[172800, 86400, "days"], [7200, 3600, "h"], [600, 60, "min"], [1, 1, "s"], [1e-3, 1e-3, "ms"], [0, 1e-6, "µs"]])
    if (Math.abs(s) >= from) return `${+(s / unit).toPrecision(3)} ${name}`;
}
function size(n) {
  for (const [step, unit] of [[40, "TiB"], [30, "GiB"], [20, "MiB"], [10, "KiB"]])
    if (n >= 2 ** step) return `${+(n / 2 ** step).toPrecision(4)} ${unit}`;
  return `${n} B`;
}
function text(value) {
  const span = document.createElement("span");
  span.textContent = value;
  return span.innerHTML;
}

// -- what all charts share ---------------------------------------------------------------------------------------
const drawn = [];
function draw(id, height, option) {
  const place = document.getElementById(id);
  if (!place) return null;
  place.textContent = "";
  place.style.height = `${height}px`;
  const chart = echarts.init(place, null, { renderer: "canvas" });
  const redraw = () => chart.setOption({ animation: false, textStyle: { fontFamily: "inherit" }, ...option() }, true);
  redraw();
  drawn.push([chart, redraw]);
  return chart;
}
const faint = () => ({ color: css("--quiet"), fontSize: 11 });
const tooltip = (formatter, trigger = "item") => ({
  trigger, formatter, confine: true, backgroundColor: css("--card"), borderColor: css("--line"),
  textStyle: { color: css("--text"), fontSize: 12 }, axisPointer: { type: "line" },
});

// -- one pass, lane by lane --------------------------------------------------------------------------------------
function lanesOf(pass) {
  const order = Object.keys(data.colours);
  const all = new Set(Object.values(pass.views).flatMap((view) => view.lanes));
  return [...all].sort((a, b) => order.indexOf(a) - order.indexOf(b));
}
function rows(pass, view, lanes) {
  const at = view.lanes.map((lane) => lanes.indexOf(lane));
  const spans = view.spans.map((s) => [s[5], at[s[0]], s[5] + s[6], view.lanes[s[0]], view.kinds[s[1]], s[2], s[3], s[4]]);
  const gaps = view.gaps.map((g) => [g[2], at[g[0]], g[2] + g[3], g[1]]);
  return [spans, gaps];
}
function box(params, api, part, minimum) {
  const [from, to] = [api.coord([api.value(0), api.value(1)]), api.coord([api.value(2), api.value(1)])];
  const tall = api.size([0, 1])[1] * part;
  const shape = echarts.graphic.clipRectByRect(
    { x: from[0], y: from[1] - tall / 2, width: Math.max(minimum, to[0] - from[0]), height: tall }, params.coordSys);
  return shape && { type: "rect", shape };
}
function says(pass, params) {
  const d = params.data;
  const took = seconds(d[2] - d[0]);
  if (params.seriesName === "idle") return `idle ${took}<br>${d[3] ? "waits for " + text(d[3]) : "nothing holds it back"}`;
  return `<b>${text(d[4])}</b> on ${text(d[3])}<br>token ${d[5]}, layer ${d[6]}, micro-batch ${d[7]}<br>${took} from ${seconds(d[0])}`;
}
function passOption(pass, lanes, names) {
  const [left, row, title] = [isNarrow() ? 86 : 104, 22, 20];
  const tall = lanes.length * row;
  const longest = Math.max(...names.map((name) => pass.views[name].took_s));
  const grid = names.map((_, n) => ({ left, right: 14, top: title + n * (tall + 44), height: tall }));
  const series = names.flatMap((name, n) => {
    const [spans, gaps] = rows(pass, pass.views[name], lanes);
    const late = new Set(pass.views[name].late);
    const common = { type: "custom", xAxisIndex: n, yAxisIndex: n, encode: { x: [0, 2], y: 1 }, clip: true };
    return [
      { ...common, name: "idle", data: gaps, renderItem: (params, api) => {
        const shape = box(params, api, 0.3, 0.2);
        return shape && { ...shape, style: { fill: colourOf(gaps[params.dataIndex][3]), opacity: 0.45 } };
      } },
      { ...common, name: "tasks", data: spans, renderItem: (params, api) => {
        const shape = box(params, api, 0.78, 0.5);
        const own = spans[params.dataIndex][5] === pass.i;
        const mark = late.has(params.dataIndex) ? { stroke: css("--text"), lineWidth: 2 } : {};
        return shape && { ...shape, style: { fill: colourOf(spans[params.dataIndex][3]), opacity: own ? 1 : 0.55, ...mark } };
      } },
    ];
  });
  return {
    grid, series,
    title: names.map((name, n) => ({ text: name, left: 0, top: n * (tall + 44), textStyle: { ...faint(), fontWeight: 600 } })),
    tooltip: tooltip((params) => says(pass, params)),
    xAxis: names.map((_, n) => ({ gridIndex: n, type: "value", min: 0, max: longest, splitNumber: isNarrow() ? 3 : 7,
      axisLabel: { ...faint(), formatter: seconds, hideOverlap: true, showMaxLabel: false }, splitLine: { lineStyle: { color: css("--line") } } })),
    yAxis: names.map((_, n) => ({ gridIndex: n, type: "category", inverse: true, data: lanes,
      axisLabel: { ...faint(), interval: 0 }, axisTick: { show: false }, axisLine: { show: false } })),
    dataZoom: [
      { type: "inside", xAxisIndex: names.map((_, n) => n), filterMode: "weakFilter", zoomOnMouseWheel: "ctrl", moveOnMouseMove: true, minSpan: 0.01 },
      { type: "slider", xAxisIndex: names.map((_, n) => n), filterMode: "weakFilter", height: 16, bottom: 4, left, right: 14, showDetail: false, brushSelect: false,
        borderColor: css("--line"), fillerColor: "rgba(124,172,255,.2)", showDataShadow: false },
    ],
  };
}
function toolbar(chart, lanes, isMeasured) {
  const tools = document.createElement("div");
  tools.className = "tools";
  for (const lane of lanes) {
    const name = document.createElement("span");
    name.innerHTML = `<i style="background:${colourOf(lane)}"></i>${text(lane)}`;
    tools.append(name);
  }
  const zoom = (times) => {
    const { start, end } = chart.getOption().dataZoom[0];
    const [middle, half] = [(start + end) / 2, times ? Math.max(0.01, ((end - start) / 2) * times) : 100];
    chart.dispatchAction({ type: "dataZoom", start: Math.max(0, middle - half), end: Math.min(100, middle + half) });
  };
  for (const [label, hint, times] of [["+", "zoom in", 0.5], ["−", "zoom out", 2], ["all", "the whole pass", 0]]) {
    const button = document.createElement("button");
    [button.type, button.textContent, button.title] = ["button", label, hint];
    button.addEventListener("click", () => zoom(times));
    tools.append(button);
  }
  const framed = isMeasured ? "; framed: the latest beside their prediction" : "";
  tools.append(`thin bars: idle, in the colour of what is waited for${framed}; drag to move, Ctrl and wheel or pinch to zoom`);
  chart.getDom().before(tools);
}
data.passes.forEach((pass, n) => {
  const lanes = lanesOf(pass);
  const names = ["predicted", "measured"].filter((name) => pass.views[name]);
  const chart = draw(`pass-${n}`, names.length * (lanes.length * 22 + 44) + 24, () => passOption(pass, lanes, names));
  if (!chart) return;
  toolbar(chart, lanes, names.length > 1);
  if (pass.layers) {
    const note = document.createElement("p");
    note.className = "quiet";
    note.textContent = `Shown is what runs while layers ${pass.layers[0]} to ${pass.layers[1]} compute; the others are alike.`;
    chart.getDom().before(note);
  }
});

// -- memory over time --------------------------------------------------------------------------------------------
const planned = (tier) => tier.weights + tier.buffers + tier.cache + tier.libraries;
const top = (tier) => (tier.budget > 2 * planned(tier) ? planned(tier) : Math.max(tier.budget, planned(tier))) * 1.12;
const isBeyond = (tier) => tier.budget > top(tier); // a budget that is not drawn, as it would make all else flat
function memoryOption() {
  const memory = data.memory;
  const tiers = Object.entries(memory.tiers);
  const tall = 120;
  const colours = { weights: "#3b82f6", buffers: "#94a3b8", "the device's libraries": "#64748b", "KV cache in use": "#f08c1a" };
  const held = (name) => memory.held.map((sample) => [sample[0], sample[1 + ["gpu", "cpu", "disk"].indexOf(name)]]);
  const times = memory.held.map((sample) => sample[0]);
  const from = Math.max(-memory.block_s, Math.min(0, ...times));
  const end = Math.max(memory.block_s, Math.min(3 * memory.block_s, Math.max(0, ...times)));
  const series = tiers.flatMap(([tierName, tier], n) => {
    const at = { xAxisIndex: n, yAxisIndex: n, type: "line", symbol: "none" };
    const flat = (value) => [[0, value], [memory.prefill_s, value], [memory.block_s, value]];
    const cache = [[0, 0], [memory.prefill_s, memory.filled_by_prompt * tier.cache], [memory.block_s, tier.cache]];
    const area = (name, points) => ({ ...at, name, stack: `tier${n}`, data: points, lineStyle: { width: 0 }, areaStyle: { opacity: 0.75 }, color: colours[name] });
    const line = (name, points, style) => ({ ...at, name, data: points, color: style.color, lineStyle: { width: 1.5, ...style } });
    const libraries = tier.libraries ? [area("the device's libraries", flat(tier.libraries))] : [];
    return [
      ...libraries, area("buffers", flat(tier.buffers)), area("weights", flat(tier.weights)), area("KV cache in use", cache),
      line("planned", flat(planned(tier)), { color: css("--text"), type: "dashed" }),
      ...(isBeyond(tier) ? [] : [line("budget", [[from, tier.budget], [end, tier.budget]], { color: "#dc2626" })]),
      ...(memory.held.length ? [{ ...line("held by the run", held(tierName), { color: "#f43fb0", width: 2 }), step: "end" }] : []),
    ];
  });
  return {
    series,
    legend: { top: 0, left: 0, textStyle: faint(), itemWidth: 16, itemHeight: 8, itemGap: isNarrow() ? 8 : 14 },
    tooltip: tooltip((points) => `${seconds(points[0].axisValue)}<br>` + points.map((p) => `${p.marker}${text(p.seriesName)} ${size(p.value[1])}`).join("<br>"), "axis"),
    title: tiers.map(([name, tier], n) => ({ text: `${name}: ${size(planned(tier))} planned of ${size(tier.budget)}${isBeyond(tier) ? ", which is above the picture" : ""}`, left: 0, top: 36 + n * (tall + 40), textStyle: { ...faint(), fontWeight: 600 } })),
    grid: tiers.map((_, n) => ({ left: 74, right: 14, top: 62 + n * (tall + 40), height: tall - 18 })),
    xAxis: tiers.map((_, n) => ({ gridIndex: n, type: "value", min: from, max: end, splitNumber: isNarrow() ? 3 : 7, splitLine: { show: false },
      axisLabel: { ...faint(), formatter: seconds, hideOverlap: true, showMaxLabel: false } })),
    yAxis: tiers.map((_, n) => ({ gridIndex: n, type: "value", min: 0, max: top(tiers[n][1]), interval: top(tiers[n][1]) / 2.24, axisLine: { onZero: false }, axisLabel: { ...faint(), formatter: size, showMaxLabel: false }, splitLine: { lineStyle: { color: css("--line") } } })),
  };
}
draw("memory", 60 + Object.keys(data.memory.tiers).length * 160, memoryOption);

// -- rows, cache and tokens a second over a job ------------------------------------------------------------------
function standingOption() {
  const { seats, reserved, passes } = data.standing;
  const behind = Math.max(1, Math.round(passes.length / 60)); // passes that a rate is the mean of
  const rates = passes.slice(behind).map((at, n) => [at[0], (at[1] - passes[n][1]) / Math.max(1e-9, at[0] - passes[n][0])]);
  const line = (name, points, color, yAxisIndex) => ({ type: "line", symbol: "none", name, data: points, color, yAxisIndex, lineStyle: { width: 1.5 } });
  const shown = (point) => (point.seriesIndex < 2 ? `${point.value[1].toFixed(0)} %` : `${point.value[1].toFixed(1)}`);
  return {
    series: [
      line("rows live", passes.map((at) => [at[0], (100 * at[2]) / Math.max(1, seats)]), "#3b82f6", 0),
      line("cache in use", passes.map((at) => [at[0], (100 * at[3]) / Math.max(1, reserved)]), "#f08c1a", 0),
      line("tokens per second", rates, "#f43fb0", 1),
    ],
    legend: { top: 0, left: 0, textStyle: faint(), itemWidth: 16, itemHeight: 8 },
    tooltip: tooltip((points) => `${seconds(points[0].axisValue)}<br>` + points.map((p) => `${p.marker}${text(p.seriesName)} ${shown(p)}`).join("<br>"), "axis"),
    grid: { left: 54, right: 54, top: 34, bottom: 24 },
    xAxis: { type: "value", min: 0, splitNumber: isNarrow() ? 3 : 7, splitLine: { show: false }, axisLabel: { ...faint(), formatter: seconds, hideOverlap: true } },
    yAxis: [
      { type: "value", min: 0, max: 100, axisLabel: { ...faint(), formatter: "{value} %" }, splitLine: { lineStyle: { color: css("--line") } } },
      { type: "value", min: 0, axisLabel: faint(), splitLine: { show: false } },
    ],
  };
}
if (data.standing) draw("rows", 230, standingOption);

// -- the page ----------------------------------------------------------------------------------------------------
const redrawAll = () => drawn.forEach(([chart, redraw]) => { chart.resize(); redraw(); });
new ResizeObserver(() => requestAnimationFrame(redrawAll)).observe(document.querySelector("main"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  redrawAll();
});
for (const button of document.querySelectorAll("button[data-file]"))
  button.addEventListener("click", () => {
    const all = read("explanation");
    const whole = { "plan.json": all.plan, "hardware.json": all.plan.problem.hardware, "explain.json": all };
    const name = button.dataset.file;
    const link = document.createElement("a");
    const content = data.files[name] || JSON.stringify(whole[name], null, 2) + "\n";
    link.href = URL.createObjectURL(new Blob([content], { type: "text/plain" }));
    link.download = name;
    link.click();
  });
document.documentElement.dataset.readyMs = Math.round(performance.now());
})();
