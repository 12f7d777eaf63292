// The life of each io_end as a table, guest and replica side by side. Built when it is opened, for there can be thousands.
const STORIES_AT_ONCE = 12, ROWS_AT_ONCE = 300;
let storiesShown = 0;

function listStories() {
  const pick = byId("pick-io-end");
  for (const story of data.stories) {
    const marks = (story.marks ?? []).map((mark) => MARKS[mark]).join(", ");
    pick.append(el("option", { value: story.io_end }, story.io_end + (marks ? " (" + marks + ")" : "")));
  }
  if (data.stories.length === 0) return byId("story-list").replaceChildren(el("p", { class: "muted" }, "The trace holds no io_end."));
  if (!data.has_replica) byId("story-list").append(el("p", { class: "muted" }, "The replica answered nothing in this run; only the guest's side is there."));
  moreStories(STORIES_AT_ONCE);
}

function moreStories(count) {
  const list = byId("story-list");
  list.querySelector(":scope > .pages")?.remove();
  for (const story of data.stories.slice(storiesShown, storiesShown + count)) list.append(storyElement(story));
  storiesShown = Math.min(storiesShown + count, data.stories.length);
  const left = data.stories.length - storiesShown;
  if (left > 0)
    list.append(el("p", { class: "pages" }, el("button", { type: "button", onclick: () => moreStories(100) }, "Show more"),
      el("span", { class: "muted" }, left + " more io_ends")));
}

function storyElement(story) {
  const box = el("details", { class: "story", id: "io_end-" + story.io_end },
    el("summary", {}, el("strong", {}, "io_end " + story.io_end), " ", el("span", { class: "muted" }, story.summary), " ", ...chips(story.marks)));
  box.addEventListener("toggle", () => {
    if (box.open && box.childElementCount === 1) box.append(...storyTable(story));
  });
  return box;
}

// Opens a story and brings its first difference, or its head, into view.
function openStory(ioEnd, { scroll = true } = {}) {
  const at = data.stories.findIndex((story) => story.io_end === ioEnd);
  if (at < 0) return;
  if (at >= storiesShown) moreStories(at + 1 - storiesShown);
  const box = byId("io_end-" + ioEnd);
  box.open = true;
  if (box.childElementCount === 1) box.append(...storyTable(data.stories[at]));
  if (scroll) (box.querySelector(".first") ?? box).scrollIntoView({ block: box.querySelector(".first") ? "center" : "start" });
}

const differs = (row) => data.has_replica && !row.same && row.around === undefined;
// Of the two responses that part, the row of the one that gives the difference its place.
const isFirst = (row) => data.difference.length > 0 && [row.guest, row.replica].includes(data.difference[0]);

function storyTable(story) {
  const first = story.rows.findIndex(isFirst);
  let from = first > ROWS_AT_ONCE ? first - 50 : 0, to = Math.min(from + ROWS_AT_ONCE, story.rows.length);
  const body = el("tbody"), more = el("p", { class: "pages" });
  const fill = () => {
    body.replaceChildren(...story.rows.slice(from, to).map(storyRow));
    more.replaceChildren();
    if (from > 0) more.append(el("button", { type: "button", onclick: () => { from = 0; fill(); } }, from + " rows before"));
    if (to < story.rows.length)
      more.append(el("button", { type: "button", onclick: () => { to = story.rows.length; fill(); } }, story.rows.length - to + " rows after"));
  };
  fill();
  const head = el("thead", {}, el("tr", {}, el("th", {}, "at"), el("th", { class: "guest-ink" }, "guest"),
    el("th", { class: "sign" }, el("span", { class: "hidden" }, "compared")), el("th", { class: "replica-ink" }, "replica")));
  return [el("table", {}, head, body), more];
}

function storyRow(row) {
  const at = row.guest ?? row.replica ?? row.around;
  if (row.around !== undefined)
    return el("tr", { class: "around" }, el("td", {}, placeText(items[at])), el("td", { colspan: 3 }, link(at), " ", ...chips(items[at].marks)));
  const first = isFirst(row);
  const sign = !data.has_replica ? "" : row.same ? "=" : "≠";
  return el("tr", { class: (differs(row) ? "differs" : "") + (first ? " first first-difference" : "") },
    el("td", {}, placeText(items[at])), el("td", {}, cell(row.guest)),
    el("td", { class: "sign", title: row.same ? "the same" : "not the same" }, sign),
    el("td", {}, row.same ? el("span", { class: "muted" }, items[row.replica].text) : cell(row.replica),
      first ? el("strong", { class: "chip difference" }, "first difference") : null));
}

const cell = (index) => (index === undefined ? el("span", { class: "muted" }, "–") : link(index));
const link = (index) =>
  el("button", { type: "button", class: "link", onclick: () => select(index, { centred: true, scroll: true }) }, items[index].text);
