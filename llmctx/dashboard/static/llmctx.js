"use strict";
// The reader's time zone: a cookie, for pages whose URL names none. The first of them is asked for again.
if (!document.cookie.includes("llmctx_tz=")) {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone) document.cookie = "llmctx_tz=" + zone + "; path=/; max-age=31536000; samesite=strict";
  if (zone && zone !== "UTC" && document.cookie.includes("llmctx_tz=") && !location.search.includes("tz=")) location.reload();
}
// Follow: rows of the page of newer calls are put in front. A hidden page asks for nothing, and after a while none does.
const follow = document.getElementById("follow");
const often = 5000, most = 180, rowsKept = 500;
let asked = 0;
const news = async () => {
  if (!follow.checked) return;
  const table = document.getElementById("calls");
  if (!document.hidden && table.dataset.newer) {
    const answer = await fetch(table.dataset.newer).catch(() => null);
    const page = answer && answer.ok ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
    const fresh = page && page.getElementById("calls");
    if (fresh) {
      const rows = [...fresh.tBodies[0].rows];
      table.tBodies[0].prepend(...rows);
      while (table.tBodies[0].rows.length > rowsKept) table.tBodies[0].lastElementChild.remove();
      table.dataset.newer = fresh.dataset.newer || table.dataset.newer;
      document.getElementById("followed").textContent = "+" + rows.length;
    }
    asked += 1;
  }
  if (asked < most) setTimeout(news, often);
  else follow.checked = false;
};
if (follow) follow.addEventListener("change", () => { asked = 0; news(); });
// A table without any call is looked at again, while somebody looks at the page.
const again = () => {
  if (document.getElementById("waiting")) setTimeout(() => (document.hidden ? again() : location.reload()), often);
};
// A plot draws the table that stands beside it: one source, readable without a script.
const resolved = (name) => {
  const probe = document.createElement("i");
  probe.className = name;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
};
const number = (cell) => (cell.dataset.value === undefined || cell.dataset.value === "" ? null : Number(cell.dataset.value));
const draw = (panel) => {
  const table = panel.querySelector("table[data-plot]");
  const place = panel.querySelector(".plot");
  if (!table || !place || !window.Chart) return;
  if (place.chart) place.chart.destroy();
  const titles = [...table.tHead.rows[0].cells].slice(1).map((cell) => cell.textContent.trim());
  const rows = [...table.tBodies[0].rows];
  const stacked = table.dataset.plot !== "lines", keyed = table.dataset.plot === "stacks";
  const whole = rows.every((row) => [...row.cells].slice(1).every((cell) => Number.isInteger(number(cell) ?? 0)));
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", table.caption.textContent.trim());
  place.replaceChildren(canvas);
  const text = resolved("hint"), line = resolved("plotline");
  place.chart = new Chart(canvas, {
    type: stacked ? "bar" : "line",
    data: {
      labels: rows.map((row) => row.cells[0].textContent.trim()),
      datasets: titles.map((title, n) => ({
        label: title, data: rows.map((row) => number(row.cells[n + 1])), backgroundColor: resolved("plot" + (n % 8 + 1)),
        borderColor: resolved("plot" + (n % 8 + 1)), spanGaps: false, pointRadius: 2, borderWidth: stacked ? 0 : 2,
      })),
    },
    options: {
      animation: false, maintainAspectRatio: false, interaction: { mode: "index", intersect: false },
      plugins: { legend: { display: keyed || titles.length > 1, labels: { color: text, boxWidth: 12 } } },
      scales: {
        x: { stacked, ticks: { color: text, maxRotation: 0, autoSkip: true }, grid: { display: false } },
        y: { stacked, beginAtZero: true, ticks: whole ? { color: text, precision: 0 } : { color: text }, grid: { color: line } },
      },
      onClick: (event, hits, chart) => {
        const [bar] = chart.getElementsAtEventForMode(event, "nearest", { intersect: true }, true);
        const cells = hits.length ? rows[hits[0].index].cells : [];
        const link = (bar && cells[bar.datasetIndex + 1].querySelector("a")) || (cells[0] && cells[0].querySelector("a"));
        if (link) location.assign(link.href);
      },
    },
  });
};
const drawAll = (from) => from.querySelectorAll(".panel").forEach(draw);
const shown = () => { drawAll(document); again(); };
document.addEventListener("htmx:after:swap", shown);
addEventListener("load", shown);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(document));
