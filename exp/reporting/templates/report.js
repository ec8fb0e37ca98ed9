"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A7A", "#B8A700"]; // Okabe-Ito
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star"];
  const GLYPHS = ["●", "■", "◆", "▲", "✚", "✖", "▼", "★"];
  const COARSE = matchMedia("(pointer: coarse)").matches;
  const plots = []; // functions that draw a plot again, for another color scheme
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Plotly reads labels as HTML: names are shown as they are
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

  function layout(more) {
    const axis = { gridcolor: css("--faint"), linecolor: css("--line"), zeroline: false, automargin: true, ticks: "" };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 8, r: 8, t: 6, b: 6 },
      font: { family: getComputedStyle(document.body).fontFamily, size: 11, color: css("--soft") }, showlegend: false,
      hoverlabel: { bgcolor: css("--surface"), bordercolor: css("--line"), font: { color: css("--ink"), size: 12 } },
      dragmode: COARSE ? false : "zoom", ...more,
      xaxis: { ...axis, ...(more.xaxis || {}) }, yaxis: { ...axis, ...(more.yaxis || {}) },
    };
  }
  // a color scale beside a plot, or below it in a narrow window
  const colorbar = (more) => ({
    thickness: 10, outlinewidth: 0, ...(innerWidth > 700 ? { len: 0.9 } : { orientation: "h", y: -0.02, yanchor: "top", len: 1 }), ...more,
  });
  const config = (more) => ({ responsive: true, displayModeBar: false, ...more });

  function drawWhenVisible(node, draw) {
    let drawn = false;
    const again = () => { if (drawn) draw(); };
    plots.push(again);
    new IntersectionObserver((entries, observer) => {
      if (entries.some((entry) => entry.isIntersecting)) {
        observer.disconnect();
        drawn = true;
        draw();
      }
    }, { rootMargin: "300px" }).observe(node);
    return again;
  }

  // ---- curves
  const { runs, charts } = data.curves;
  const hidden = new Set();
  const style = (run) => ({ color: PALETTE[run % PALETTE.length], dash: DASHES[Math.floor(run / PALETTE.length) % DASHES.length] });

  function setUpCurves() {
    if (!charts.length) return;
    const axis = element("x-axis");
    const legend = element("run-legend");
    const redraw = charts.map((chart) => {
      const card = document.createElement("div");
      card.className = "card";
      const title = document.createElement("h3");
      title.textContent = chart.title;
      const help = document.createElement("p");
      help.textContent = chart.help;
      const plot = document.createElement("div");
      plot.className = "plot";
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", `Curves of ${chart.title} by step, one line per run`);
      card.append(title, help, plot);
      element("charts").append(card);
      return drawWhenVisible(plot, () => drawChart(plot, chart, axis.value));
    });
    runs.forEach((run, number) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      const line = style(number);
      const dashes = { solid: "", dash: "6 3", dot: "2 3", dashdot: "6 3 2 3" }[line.dash];
      button.innerHTML = `<svg width="26" height="8" aria-hidden="true"><line x1="1" y1="4" x2="25" y2="4" stroke="${line.color}" stroke-width="3" stroke-dasharray="${dashes}"/></svg>`;
      button.append(run.name);
      button.addEventListener("click", () => {
        hidden.has(number) ? hidden.delete(number) : hidden.add(number);
        button.setAttribute("aria-pressed", String(!hidden.has(number)));
        redraw.forEach((draw) => draw());
      });
      legend.append(button);
    });
    axis.addEventListener("change", () => redraw.forEach((draw) => draw()));
  }

  function drawChart(plot, chart, unit) {
    const scale = (run, step) => (unit === "epoch" && runs[run].perEpoch ? step / runs[run].perEpoch : step);
    const shown = chart.traces.filter((trace) => !hidden.has(trace.run));
    const values = shown.flatMap((trace) => trace.y.slice(trace.y.length > 20 ? Math.floor(trace.y.length / 20) : 0));
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (!values.length) [low, high] = [0, 1];
    const pad = (high - low || Math.abs(high) || 1) * 0.06;
    [low, high] = [low - pad, high + pad];
    const traces = shown.map((trace) => ({
      type: "scatter", mode: trace.y.length < 3 ? "lines+markers" : "lines", x: trace.step.map((step) => scale(trace.run, step)),
      y: trace.y, name: plain(short(runs[trace.run].name, 40)), line: { ...style(trace.run), width: 1.8 },
      hovertemplate: "%{y:.4g}",
    }));
    for (const bound of chart.bounds.filter((item) => !hidden.has(item.run))) {
      const inside = bound.y >= low; // a bound far below is a marker at the edge: it does not squash the curves
      const trace = chart.traces.find((item) => item.run === bound.run);
      traces.push({
        type: "scatter", mode: "markers", x: [scale(bound.run, trace.step[trace.step.length - 1])], y: [inside ? bound.y : low + pad * 0.4],
        marker: { color: style(bound.run).color, size: 9, symbol: inside ? "triangle-left" : "triangle-down" }, cliponaxis: false,
        hovertemplate: `lower bound ${bound.y}${inside ? "" : ", below this axis"}<extra>${plain(short(runs[bound.run].name, 40))}</extra>`,
      });
    }
    Plotly.react(plot, traces, layout({ hovermode: "x unified", yaxis: { range: [low, high], nticks: 6 }, xaxis: { nticks: 6 } }), config({}));
  }

  // ---- tooltip with a thumbnail
  const tooltip = element("tooltip");
  function showTooltip(map, row, x, y) {
    tooltip.textContent = "";
    if (map.sprite !== null && map.sprite !== undefined) {
      const image = document.createElement("div");
      image.className = "thumbnail";
      image.setAttribute("role", "img");
      image.setAttribute("aria-label", `Sample of class ${map.classes[map.label[row]]}`);
      image.style.backgroundImage = `url(${data.embedding.sprites[map.sprite]})`;
      image.style.backgroundSize = `${map.columns * 128}px auto`;
      image.style.backgroundPosition = `-${(row % map.columns) * 128}px -${Math.floor(row / map.columns) * 128}px`;
      tooltip.append(image);
    }
    const name = document.createElement("b");
    name.textContent = map.classes[map.label[row]];
    tooltip.append(name);
    const column = (key) => map.info[key] && map.info[key].names[map.info[key].index[row]];
    const position = column("latitude") && `${Number(column("latitude")).toFixed(2)}, ${Number(column("longitude")).toFixed(2)}`;
    for (const text of [column("location") || column("image"), column("date"), position].filter(Boolean)) {
      const line = document.createElement("div");
      line.textContent = text;
      tooltip.append(line);
    }
    tooltip.hidden = false;
    const box = tooltip.getBoundingClientRect();
    tooltip.style.left = `${Math.max(6, Math.min(x + 14, innerWidth - box.width - 6))}px`;
    tooltip.style.top = `${Math.max(6, Math.min(y + 14, innerHeight - box.height - 6))}px`;
  }

  // ---- embedding map
  function setUpMap() {
    const { maps } = data.embedding;
    if (!maps.length) return;
    const [plot, choice, filter] = [element("embedding"), element("map-choice"), element("class-filter")];
    let rows = [];
    let current = -1;
    const show = (label) => { filter.value = String(filter.value) === String(label) ? "" : label; filter.dispatchEvent(new Event("change")); };
    const listClasses = () => {
      const map = maps[Number(choice.value)];
      const counts = map.classes.map(() => 0);
      map.label.forEach((label) => { counts[label] += 1; });
      const kept = map.classes[Number(filter.value)] && filter.value !== "" ? map.classes[Number(filter.value)] : null;
      filter.textContent = "";
      filter.append(new Option(`all (${map.label.length} of ${map.samples} samples)`, ""));
      map.classes.forEach((name, label) => { if (counts[label]) filter.append(new Option(`${name} (${counts[label]})`, label)); });
      filter.value = kept !== null && map.classes.includes(kept) ? map.classes.indexOf(kept) : "";
      element("class-legend").textContent = "";
      map.classes.forEach((name, label) => {
        if (!counts[label]) return;
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.label = label;
        const glyph = document.createElement("span");
        glyph.setAttribute("aria-hidden", "true");
        glyph.style.color = color(label);
        glyph.textContent = `${GLYPHS[Math.floor(label / PALETTE.length) % GLYPHS.length]} `;
        button.append(glyph, name);
        button.addEventListener("click", () => show(label));
        element("class-legend").append(button);
      });
    };
    const color = (label) => PALETTE[label % PALETTE.length];
    const draw = () => {
      const map = maps[Number(choice.value)];
      const chosen = filter.value === "" ? null : Number(filter.value);
      element("class-legend").querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", String(Number(button.dataset.label) === chosen)));
      rows = map.label.map((_, row) => row).filter((row) => chosen === null || map.label[row] === chosen);
      const faint = map.label.map((_, row) => row).filter((row) => chosen !== null && map.label[row] !== chosen);
      const points = (some, marker, more) => ({
        type: "scatter", mode: "markers", x: some.map((row) => map.x[row]), y: some.map((row) => map.y[row]), customdata: some, marker, ...more,
      });
      const traces = [
        points(faint, { size: 4, color: css("--line") }, { hoverinfo: "skip" }),
        points(rows, {
          size: chosen === null ? 6 : 8, opacity: 0.85, color: rows.map((row) => color(map.label[row])),
          symbol: rows.map((row) => SYMBOLS[Math.floor(map.label[row] / PALETTE.length) % SYMBOLS.length]),
        }, { hoverinfo: "none" }),
      ];
      const axis = { showgrid: false, showticklabels: false, linecolor: "rgba(0,0,0,0)" };
      const same = plot.dataset.map === choice.value ? "same" : choice.value;
      plot.dataset.map = choice.value;
      Plotly.react(plot, traces, layout({ hovermode: "closest", dragmode: COARSE ? false : "pan", xaxis: axis, yaxis: axis, uirevision: choice.value || same }), config({ scrollZoom: !COARSE }));
      if (!plot.dataset.ready) {
        plot.dataset.ready = "1";
        const show = (event) => {
          const point = event.points.find((item) => item.customdata !== undefined);
          if (point && event.event) showTooltip(maps[Number(choice.value)], point.customdata, event.event.clientX, event.event.clientY);
        };
        plot.on("plotly_hover", show);
        plot.on("plotly_click", show);
        plot.on("plotly_unhover", () => { tooltip.hidden = true; });
      }
    };
    const again = drawWhenVisible(plot, draw);
    choice.addEventListener("change", () => { listClasses(); again(); });
    filter.addEventListener("change", () => { current = -1; again(); });
    const zoom = (factor) => {
      if (!plot.dataset.ready) return;
      const change = {};
      for (const axis of ["xaxis", "yaxis"]) {
        const [low, high] = plot.layout[axis].range;
        const [middle, half] = [(low + high) / 2, ((high - low) / 2) * factor];
        change[`${axis}.range`] = [middle - half, middle + half];
      }
      Plotly.relayout(plot, change);
    };
    element("zoom-in").addEventListener("click", () => zoom(0.6));
    element("zoom-out").addEventListener("click", () => zoom(1 / 0.6));
    element("zoom-reset").addEventListener("click", () => plot.dataset.ready && Plotly.relayout(plot, { "xaxis.autorange": true, "yaxis.autorange": true }));
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") tooltip.hidden = true;
      if (!step || !rows.length || !plot.layout) return;
      event.preventDefault();
      current = (current + step + rows.length) % rows.length;
      const map = maps[Number(choice.value)];
      const [box, full] = [plot.getBoundingClientRect(), plot._fullLayout];
      const place = (axis, value) => axis._offset + axis.l2p(value);
      showTooltip(map, rows[current], box.left + place(full.xaxis, map.x[rows[current]]), box.top + place(full.yaxis, map.y[rows[current]]));
    });
    plot.addEventListener("blur", () => { tooltip.hidden = true; });
    addEventListener("scroll", () => { tooltip.hidden = true; }, { passive: true });
    listClasses();
  }

  // ---- world map
  function setUpWorld() {
    const { sets, land } = data.world;
    if (!sets.length) return;
    const [plot, choice] = [element("world-map"), element("world-choice")];
    const outline = { x: [], y: [] };
    for (const line of land) {
      for (const [longitude, latitude] of line) { outline.x.push(longitude); outline.y.push(latitude); }
      outline.x.push(null); outline.y.push(null);
    }
    const draw = () => {
      const { points } = sets[Number(choice.value)];
      const most = Math.max(...points.map((point) => point.samples));
      const traces = [
        { type: "scatter", mode: "lines", ...outline, line: { color: css("--land"), width: 1 }, fill: "toself", fillcolor: css("--land"), hoverinfo: "skip" },
        {
          type: "scatter", mode: "markers", x: points.map((point) => point.longitude), y: points.map((point) => point.latitude),
          marker: {
            size: points.map((point) => (innerWidth > 700 ? 9 : 5) * (1 + Math.sqrt(point.samples / most))), color: points.map((point) => point.top1), cmin: 0, cmax: 1,
            colorscale: "Cividis", line: { color: css("--ink"), width: 1 },
            colorbar: colorbar({ title: { text: "top-1" } }),
          },
          text: points.map((point) => `${plain(point.name)}<br>top-1 ${point.top1.toFixed(3)} of ${point.samples} samples`), hovertemplate: "%{text}<extra></extra>",
        },
      ];
      const hide = { showgrid: false, showticklabels: false, linecolor: "rgba(0,0,0,0)", constrain: "domain" };
      Plotly.react(plot, traces, layout({ hovermode: "closest", xaxis: { ...hide, range: [-170, 190] }, yaxis: { ...hide, range: [-58, 80], scaleanchor: "x" } }), config({ scrollZoom: false }));
    };
    choice.addEventListener("change", drawWhenVisible(plot, draw));
  }

  // ---- confusion matrices
  function setUpConfusion() {
    if (!data.confusions.length) return;
    const [plot, choice] = [element("confusion-plot"), element("confusion-choice")];
    const draw = () => {
      const { classes, counts } = data.confusions[Number(choice.value)];
      const percent = counts.map((row) => { const sum = row.reduce((a, b) => a + b, 0); return row.map((value) => (sum ? (100 * value) / sum : null)); });
      const names = classes.map((name) => plain(short(name, innerWidth < 700 ? 12 : 24)));
      const detail = counts.map((row, truth) => row.map((value, guess) => `true ${plain(classes[truth])}<br>predicted ${plain(classes[guess])}<br>${value} of ${row.reduce((a, b) => a + b, 0)}`));
      const few = classes.length <= (innerWidth < 700 ? 6 : 16);
      const indices = classes.map((_, index) => index);
      const traces = [{
        type: "heatmap", z: percent, x: indices, y: indices, text: percent.map((row) => row.map((value) => (few && value !== null && value >= 0.5 ? value.toFixed(0) : ""))),
        texttemplate: few ? "%{text}" : "", hovertext: detail, hovertemplate: "%{hovertext}<br>%{z:.1f} %<extra></extra>", zmin: 0, zmax: 100,
        colorscale: [[0, css("--faint")], [1, css("--accent")]], xgap: 1, ygap: 1, showscale: innerWidth > 700, colorbar: colorbar({ ticksuffix: " %" }),
      }];
      const axis = { tickvals: indices, ticktext: names, showgrid: false };
      Plotly.react(plot, traces, layout({ xaxis: { ...axis, tickangle: -45, title: { text: "predicted" } }, yaxis: { ...axis, autorange: "reversed", title: { text: "true" } } }), config({}));
    };
    choice.addEventListener("change", drawWhenVisible(plot, draw));
  }

  const published = element("published");
  if (published) {
    const toggle = () => document.body.classList.toggle("without-published", !published.checked);
    published.addEventListener("change", toggle);
    published.checked = innerWidth > 700;
    toggle();
  }

  function openTarget() {
    const target = location.hash.startsWith("#run-") && element(location.hash.slice(1));
    if (target) target.open = true;
  }
  addEventListener("hashchange", openTarget);
  openTarget();
  setUpCurves();
  setUpMap();
  setUpWorld();
  setUpConfusion();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach((draw) => draw()));
})();
