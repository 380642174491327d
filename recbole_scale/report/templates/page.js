"use strict";
/* The page's one script: values under the pointer, sliders, tables that sort, filter and save, commands to copy. */
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";

  /* Values under the pointer; arrow keys walk through them. */
  const tip = byId("tip");
  const say = (drawing, mark) => {
    const svg = drawing.querySelector("svg"), box = svg.getBoundingClientRect(), unit = box.width / svg.viewBox.baseVal.width;
    tip.textContent = mark[2];
    tip.hidden = false;
    const x = box.left + mark[0] * unit, y = box.top + mark[1] * unit;
    tip.style.left = Math.max(4, Math.min(x + 10, window.innerWidth - tip.offsetWidth - 4)) + "px";
    tip.style.top = Math.max(4, y - tip.offsetHeight - 8) + "px";
  };
  for (const drawing of all(".drawing")) {
    const marks = JSON.parse(drawing.dataset.marks);
    let at = -1;
    drawing.addEventListener("pointermove", (event) => {
      const svg = drawing.querySelector("svg"), box = svg.getBoundingClientRect(), unit = box.width / svg.viewBox.baseVal.width;
      const x = (event.clientX - box.left) / unit, y = (event.clientY - box.top) / unit;
      let best = null, least = 40 * 40;
      for (const mark of marks) {
        const far = (mark[0] - x) ** 2 + (mark[1] - y) ** 2;
        if (far < least) { best = mark; least = far; }
      }
      if (best) { at = marks.indexOf(best); say(drawing, best); } else { tip.hidden = true; }
    });
    drawing.addEventListener("pointerleave", () => { tip.hidden = true; });
    drawing.addEventListener("blur", () => { tip.hidden = true; });
    drawing.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !marks.length) return;
      event.preventDefault();
      at = (at + step + marks.length) % marks.length;
      say(drawing, marks[at]);
    });
  }

  /* Sliders. */
  const whatIf = byId("whatif");
  if (whatIf) {
    const curves = JSON.parse(whatIf.dataset.curves), last = curves.n.length - 1;
    const count = (value) => {
      for (const [unit, size] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["K", 1e3]])
        if (value >= 0.9995 * size) return Number((value / size).toPrecision(3)) + unit;
      return String(Number(value.toPrecision(3)));
    };
    const time = (hours) => {
      const seconds = 3600 * hours;
      if (seconds < 90) return (seconds < 9.5 ? String(Number(seconds.toPrecision(2))) : seconds.toFixed(0)) + " s";
      if (seconds < 5400) return (seconds / 60).toFixed(0) + " min";
      return hours.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 }) + " h";
    };
    const form = {
      loss: (v) => v.toFixed(3) + " nats", hits: (v) => (1000 * v).toFixed(0) + " of 1,000 visits", ndcg: (v) => v.toFixed(4),
      hours: time, memory: (v) => (v < 1000 ? v.toFixed(0) + " MB" : (v / 1000).toPrecision(3) + " GB"),
      serving: (v) => (v < 999.5 ? Number(v.toPrecision(3)) : Math.round(v).toLocaleString("en")) + " ms a user",
    };
    const bare = { loss: (v) => v.toFixed(3), hits: (v) => (1000 * v).toFixed(0), ndcg: form.ndcg };  /* the unit stands before */
    const put = (id, text) => { const place = byId(id); if (place) place.textContent = text; };
    const known = (value) => value !== null && value !== undefined;
    const budgetOf = (i) => {  /* the budget slider is even in log hours */
      const low = Math.log(curves.hours[0][0]), high = Math.log(curves.hours[last][0]);
      return Math.exp(low + (high - low) * i / last);
    };
    const marker = (figure, i, name) => {
      const drawing = document.querySelector(`#figure-${figure} .drawing`);
      if (!drawing || !curves[name] || !known(curves[name][i][0])) return;
      const panel = JSON.parse(drawing.dataset.panels)[0], svg = drawing.querySelector("svg");
      const [left, bottom, right, top] = panel.box, scale = (v) => (panel.log ? Math.log(v) : v);
      const x = left + (right - left) * (scale(curves.n[i]) - scale(panel.x[0])) / (scale(panel.x[1]) - scale(panel.x[0]));
      const y = (v) => Math.max(top, Math.min(bottom, bottom + (top - bottom) * (v - panel.y[0]) / (panel.y[1] - panel.y[0])));
      let group = svg.querySelector(".marker");
      if (!group) {
        group = document.createElementNS(SVG, "g");
        group.setAttribute("class", "marker");
        for (const kind of ["line", "line", "circle"]) group.append(document.createElementNS(SVG, kind));
        group.children[1].setAttribute("class", "band");
        group.children[2].setAttribute("r", "4.5");
        svg.append(group);
      }
      const [value, low, high] = curves[name][i];
      const set = (index, values) => { for (const [key, v] of Object.entries(values)) group.children[index].setAttribute(key, v); };
      set(0, { x1: x, x2: x, y1: bottom, y2: top });
      set(1, known(low) ? { x1: x, x2: x, y1: y(low), y2: y(high) } : { x1: x, x2: x, y1: y(value), y2: y(value) });
      set(2, { cx: x, cy: y(value) });
    };
    const show = (i) => {
      put("at-n", count(curves.n[i]));
      for (const name of Object.keys(form)) {
        if (!curves[name]) continue;
        const [value, low, high] = curves[name][i];
        put("at-" + name, known(value) ? form[name](value) : "not known");
        put("at-" + name + "-band", known(low) ? `${bare[name](low)} to ${bare[name](high)}` : "");
      }
      marker("answer-loss", i, "loss");
      marker("answer-hits", i, "hits");
    };
    const size = byId("size"), budget = byId("budget"), worth = byId("worth");
    const worthOf = () => curves.worth[Number(worth.value)];
    const upTo = (pick) => {  /* the largest size from now on whose doubling still wins enough */
      let found = null;
      for (let i = curves.now; i <= last; i++) { if (pick(curves.gain[i]) < worthOf()) break; found = i; }
      return found;
    };
    const judge = () => {
      const gain = curves.decides, asked = worthOf(), hits = Boolean(curves.hits);
      put("at-worth", hits ? (1000 * asked).toPrecision(2) + " more hits in 1,000 visits" : asked.toPrecision(2) + " nats");
      if (!gain) return;
      const word = !known(gain[1]) ? "Not known yet"
        : gain[1] >= asked ? "Yes" : gain[2] < asked ? "No" : "Not known yet";
      const place = (i) => (i === last ? "more than " + count(curves.n[last]) : count(curves.n[i]));
      const [mid, low, high] = [0, 1, 2].map((end) => upTo((g) => g[end]));
      const beyond = "beyond " + count(curves.n[curves.now]);
      const banded = known(curves.gain[0][1]);
      const text = mid === null ? `by the law no doubling ${beyond} wins so much` : `by the law doubling wins so much up to ${place(mid)}`;
      const range = !banded || high === null || low === last ? "" : low === null ? ` (95\u00a0% band: none, up to ${place(high)})`
        : ` (95\u00a0% band ${place(low)} to ${place(high)})`;
      put("pays", `At that: ${word}; ${text}${range}.`);
    };
    size.addEventListener("input", () => {
      const i = Number(size.value);
      if (curves.hours && known(curves.hours[i][0])) {
        const low = Math.log(curves.hours[0][0]), high = Math.log(curves.hours[last][0]);
        budget.value = Math.round(last * (Math.log(curves.hours[i][0]) - low) / (high - low));
        put("at-budget", time(curves.hours[i][0]));
      }
      show(i);
    });
    budget.addEventListener("input", () => {
      const hours = budgetOf(Number(budget.value));
      let i = 0;
      while (i < last && curves.hours[i + 1][0] <= hours * 1.0001) i++;
      size.value = i;
      put("at-budget", time(hours));
      show(i);
    });
    worth.addEventListener("input", judge);
    size.dispatchEvent(new Event("input"));
    judge();
  }

  /* Tables. */
  const value = (cell) => {
    const text = cell.textContent.trim(), found = text.match(/^[±+]?(-?[\d,]*\.?\d+(?:e[+-]?\d+)?)\s*([KMBT])?/i);
    return !found ? text : Number(found[1].replaceAll(",", "")) * ({ K: 1e3, M: 1e6, B: 1e9, T: 1e12 }[found[2]] || 1);
  };
  const order = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return typeof a === "number" ? -1 : typeof b === "number" ? 1 : a.localeCompare(b);
  };
  for (const holder of all(".tabular")) {
    const table = holder.querySelector("table"), body = table.tBodies[0], heads = all("th", table);
    heads.forEach((head, column) => head.querySelector(".sort").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      const rows = [...body.rows].map((row) => [value(row.cells[column]), row]);
      rows.sort((a, b) => (up ? 1 : -1) * order(a[0], b[0]));
      body.append(...rows.map((pair) => pair[1]));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
    }));
    const filter = holder.querySelector(".filter");
    if (!filter) continue;
    const counted = () => { holder.querySelector(".count").textContent = `${[...body.rows].filter((row) => !row.hidden).length} of ${body.rows.length} runs`; };
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(",").map((word) => word.trim()).filter(Boolean);
      for (const row of body.rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      counted();
    });
    counted();
    holder.querySelector(".csv").addEventListener("click", () => {
      const field = (cell) => {  /* a cell that a spreadsheet would take for a formula is made text */
        const text = cell.textContent.trim(), safe = /^[=+@\t\r]|^-(?![\d.]|$)/.test(text) ? "'" + text : text;
        return '"' + safe.replaceAll('"', '""') + '"';
      };
      const rows = [table.tHead.rows[0], ...[...body.rows].filter((row) => !row.hidden)];
      const lines = rows.map((row) => [...row.cells].map(field).join(","));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
      link.download = holder.dataset.file;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }

  /* Commands to copy; where the clipboard is closed the text is selected. */
  for (const button of all(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
      }
    });
  }
  window.addEventListener("beforeprint", () => all("details").forEach((one) => { one.open = true; }));
})();
