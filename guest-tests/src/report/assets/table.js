// Every event as text: the timeline for those who do not see it, and for those who search.
const PER_PAGE = 100;
const table = { page: 0, rows: [] };

function filterTable() {
  const lane = byId("table-lane").value, text = byId("table-text").value.trim().toLowerCase(), marked = byId("table-marked").checked;
  table.rows = [];
  items.forEach((item, index) => {
    if (lane && laneOf(item) !== lane) return;
    if (marked && item.marks === undefined) return;
    if (text && !(item.text + " " + item.kind + " " + placeText(item)).toLowerCase().includes(text)) return;
    table.rows.push(index);
  });
  table.page = 0;
  showTable();
}

function showTable() {
  const pages = Math.max(1, Math.ceil(table.rows.length / PER_PAGE));
  const rows = table.rows.slice(table.page * PER_PAGE, (table.page + 1) * PER_PAGE);
  const turn = (by) => () => { table.page += by; showTable(); };
  byId("table").replaceChildren(
    el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "at"), el("th", { scope: "col", class: "wide" }, "device time"),
        el("th", { scope: "col" }, "lane"), el("th", { scope: "col" }, "event"))),
      el("tbody", {}, ...rows.map(tableRow))),
    el("div", { class: "pages" },
      el("button", { type: "button", disabled: table.page === 0, onclick: turn(-1) }, "Before"),
      el("span", { role: "status" }, `${table.rows.length} events, page ${table.page + 1} of ${pages}`),
      el("button", { type: "button", disabled: table.page >= pages - 1, onclick: turn(1) }, "After")));
}

function tableRow(index) {
  const item = items[index], lane = laneOf(item);
  return el("tr", { "data-event": index, class: index === view.selected ? "selected" : "" },
    el("td", {}, placeText(item)), el("td", { class: "wide" }, data.has_time ? timeText(item.t) : ""),
    el("td", { class: "lane " + lane + "-ink" }, lane), el("td", {}, link(index), " ", ...chips(item.marks)));
}

function markRow(index) {
  byId("table").querySelector("tr.selected")?.classList.remove("selected");
  byId("table").querySelector(`tr[data-event="${index}"]`)?.classList.add("selected");
}

function listenTable() {
  for (const id of ["table-lane", "table-text", "table-marked"]) byId(id).addEventListener("input", filterTable);
}
