// The page's data, and the few ways in which everything else touches the page.
// Text from the data only ever becomes textContent; there is no markup in it.
const data = JSON.parse(document.getElementById("data").textContent);
const items = data.items;
const laneOf = (item) => data.tracks[item.track].lane;

const byId = (id) => document.getElementById(id);

// el("td", { class: "x", onclick: f }, "text", otherElement)
function el(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props ?? {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== undefined && child !== null));
  return node;
}

const MARKS = { fault: "fault", error: "error", host_error: "host error", finding: "finding", difference: "first difference" };
const chips = (marks) => (marks ?? []).map((mark) => el("span", { class: "chip " + mark }, MARKS[mark]));

function timeText(ns) {
  return (ns / 1e6).toFixed(3) + " ms";
}

// The guest's sequence number where there is one; the device counts for itself.
function placeText(item) {
  return item.seq !== undefined ? String(item.seq) : "d" + item.device;
}
