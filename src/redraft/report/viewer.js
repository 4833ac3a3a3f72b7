// The trace viewer. Data: the script element `index` (columns, an entry an episode) and pieces of
// compressed texts, which are read when they are needed. Addresses: #rows?FILTERS, #first?FILTERS
// (the first episode of that list), #episode/NUMBER?FILTERS, #problem/NUMBER; everything else is a
// place in the report.
// Texts are a model's and not trusted: they only ever become text nodes and attribute values.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const index = JSON.parse($("index").textContent);
  const { episodes: rows, problems, runs, badges: BADGES, piece: PIECE } = index;
  const total = rows.run.length;
  const ROW_HEIGHT = 30;
  const LONGEST = 50000; // characters of a text that are shown at once
  let shown = { difference: true, tokens: "" };
  // By token: a number, how strongly it is marked (0 to 5), and whether it is negative.
  const size = (value, bounds) => bounds.filter((bound) => Math.abs(value) > bound).length;
  const OVERLAYS = {
    "log-probability": (one, at) => [one.logprobs?.[at], (v) => size(v, [0.05, 0.3, 1, 2, 4]), () => false],
    "KL": (one, at) => [one.kl?.[at], (v) => size(v, [0.01, 0.05, 0.2, 0.5, 1]), (v) => v < 0],
    "advantage": (one) => [one.advantage, (v) => size(v, [0, 0.1, 0.3, 0.6, 1]), (v) => v < 0],
    "mask": (one) => [one.pieces && one.advantage !== undefined ? 1 : 0, (v) => 2 * v, () => false],
  };
  const overlaysOf = (episode) => Object.keys(OVERLAYS).filter((name) =>
    episode.turns.some((one) => one.pieces && (name !== "mask" || one.advantage !== undefined) && OVERLAYS[name](one, 0)[0] !== undefined));
  let selection = { query: null, rows: [] };
  let turn = 0; // counts views, so that what a view has begun ends with it

  // Elements

  function h(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(name, value);
    }
    for (const child of children.flat(2)) {
      if (child instanceof Node) element.append(child);
      else if (child !== null && child !== undefined && child !== false) element.append(visible(child));
    }
    return element;
  }

  // Control characters and marks of direction, which could hide or reorder text, become visible.
  function visible(text) {
    return String(text)
      .replace(/[\u0000-\u0008\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
      .replace(/[\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
  }

  const percent = (share) => (100 * share).toFixed(1) + " %";
  const number = (value) =>  // 0 where rounding leaves -0
    (Number.isInteger(value) ? (value || 0).toLocaleString("en") : value.toFixed(3).replace(/^-(?=0\.0+$)/, ""));
  const answered = (grade) => grade.answer ?? ({ graded: "", no_text: "text not in the file" }[grade.status] ?? "none found");

  // Texts

  const pieces = new Map();

  async function inflated(base64) {
    const bytes = Uint8Array.from(atob(base64.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Response(stream).text();
  }

  function lines(kind, piece) {
    const id = `${kind}-${piece}`;
    if (!pieces.has(id)) {
      if (pieces.size > 50) pieces.delete(pieces.keys().next().value);
      pieces.set(id, inflated($(id).textContent).then((text) => text.split("\n")));
    }
    return pieces.get(id);
  }

  async function record(kind, place) {
    return JSON.parse((await lines(kind, Math.floor(place / PIECE)))[place % PIECE]);
  }

  // Filters

  const verdict = (row, attempt) => {
    const all = rows.verdicts[row];
    return all && all[Math.min(attempt, all.length) - 1] === "1" ? "right" : all ? "wrong" : null;
  };
  const flipped = (row) => /01|10/.test(rows.verdicts[row]);
  const badgesOf = (row) => BADGES.filter((_, bit) => rows.badges[row] & (1 << bit));
  const between = (value, range) => {
    const [low, high] = range.split("..").map(Number);
    return value !== null && value >= low && (high === undefined ? value === low : value < high);
  };

  function matcher(filters) {
    const tests = [];
    for (const [name, value] of filters) {
      if (name === "run") tests.push((row) => rows.run[row] === Number(value));
      else if (name === "part") tests.push((row) => rows.part[row] === value);
      else if (name === "step") tests.push((row) => between(rows.step[row], value));
      else if (name === "edit") tests.push((row) => between(rows.edit[row], value));
      else if (name === "problem") tests.push((row) => rows.problem[row] === Number(value));
      else if (name === "flipped") tests.push(flipped);
      else if (name === "badge") tests.push((row) => rows.badges[row] & (1 << BADGES.indexOf(value)));
      else if (/^t\d+$/.test(name)) tests.push((row) => verdict(row, Number(name.slice(1))) === value);
      else if (name.startsWith("level.")) {
        tests.push((row) => problems.level[rows.problem[row]][name.slice(6)] === value);
      }
    }
    return (row) => tests.every((test) => test(row));
  }

  async function select(filters, tell) {
    const query = filters.toString();
    if (selection.query === query) return selection.rows;
    const mine = turn;
    const matches = matcher(filters);
    let found = [];
    for (let row = 0; row < total; row++) if (matches(row)) found.push(row);
    const sought = (filters.get("q") || "").trim().toLowerCase();
    if (sought) found = await search(found, sought, tell, () => mine === turn);
    if (mine === turn) selection = { query, rows: found };
    return found;
  }

  // Looks in the stored lines as they are, so that a search need not parse them: for the text as JSON
  // writes it, and for what is typed, such as "level":3.
  async function search(candidates, sought, tell, wanted) {
    const stored = JSON.stringify(sought).slice(1, -1);
    const wants = [...new Set([stored, sought])];
    const has = (line) => {
      const low = line.toLowerCase();
      return wants.some((text) => low.includes(text));
    };
    const hits = new Set();
    for (let piece = 0; piece * PIECE < problems.id.length && wanted(); piece++) {
      (await lines("problem", piece)).forEach((line, place) => {
        if (has(line)) hits.add(piece * PIECE + place);
      });
    }
    const found = [];
    let texts = [], at = -1;
    for (const [done, row] of candidates.entries()) {
      const piece = Math.floor(row / PIECE);
      if (piece !== at) {
        if (!wanted()) break;
        const read = lines("episode", piece);
        if ((piece + 1) * PIECE < total) lines("episode", piece + 1); // unpacked meanwhile
        [texts, at] = [await read, piece];
        tell(`searching, ${percent(done / candidates.length)}`);
      }
      if (hits.has(rows.problem[row]) || has(texts[row % PIECE])) found.push(row);
    }
    return found;
  }

  // The list of episodes

  const marks = (row) =>
    [...rows.verdicts[row]].flatMap((one, place) => [
      place ? " → " : "",
      h("span", { class: one === "1" ? "right" : "wrong" }, one === "1" ? "✓" : "✗"),
    ]);

  function listed(row, filters) {
    const problem = rows.problem[row];
    const step = rows.step[row];
    return h("a", { class: "row", href: address(`episode/${row}`, filters) },
      h("span", { class: "verdicts" }, marks(row)),
      h("span", { class: "id" }, problems.id[problem]),
      h("span", { class: "title" }, problems.title[problem]),
      h("span", { class: "from" }, runs[rows.run[row]].name, step === null ? "" : `, step ${step}`,
        rows.part[row] === "turns" || step !== null ? "" : `, ${rows.part[row]}`),
      badgesOf(row).map((name) => h("span", { class: "badge" }, name)));
  }

  function virtualList(found, filters) {
    const inner = h("div", { class: "inner" });
    const list = h("div", { class: "list", tabindex: "0" }, inner);
    inner.style.height = `${found.length * ROW_HEIGHT}px`;
    const draw = () => {
      const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 10);
      const last = Math.min(found.length, first + Math.ceil(list.clientHeight / ROW_HEIGHT) + 20);
      inner.replaceChildren(...found.slice(first, last).map((row, place) => {
        const element = listed(row, filters);
        element.style.top = `${(first + place) * ROW_HEIGHT}px`;
        return element;
      }));
    };
    list.addEventListener("scroll", () => requestAnimationFrame(draw));
    queueMicrotask(draw);
    return list;
  }

  function choice(label, name, options, filters) {
    const current = filters.get(name) ?? "";
    const change = (event) => go("rows", changed(filters, name, event.target.value));
    return h("label", {}, label, " ",
      h("select", { "aria-label": label, onchange: change }, [["", "all"], ...options].map(([value, text]) =>
        h("option", { value, selected: value === current ? "" : null }, text))));
  }

  function changed(filters, name, value) {
    const next = new URLSearchParams(filters);
    if (value === "") next.delete(name);
    else next.set(name, value);
    return next;
  }

  function controls(filters) {
    const verdicts = [["right", "right"], ["wrong", "wrong"]];
    const sought = h("input", { id: "search", type: "search", placeholder: "search texts and metadata ( / ), then Enter" });
    sought.value = filters.get("q") || "";
    const submit = (event) => {
      event.preventDefault();
      go("rows", changed(filters, "q", sought.value));
    };
    const rest = [...filters].filter(([name]) => !["run", "t1", "t2", "badge", "q"].includes(name));
    return h("form", { class: "controls", onsubmit: submit },
      choice("run", "run", runs.map((run, place) => [String(place), run.name]), filters),
      choice("attempt 1", "t1", verdicts, filters),
      choice("attempt 2", "t2", verdicts, filters),
      choice("marked", "badge", BADGES.map((name) => [name, name]), filters),
      sought,
      rest.map(([name, value]) => h("a", { class: "chip", href: address("rows", changed(filters, name, "")) },
        name === "flipped" ? "flipped" : `${name} ${value}`, " ×")));
  }

  async function showRows(filters) {
    const mine = turn;
    const count = h("p", { class: "count", role: "status" }, "…");
    const place = h("div");
    $("viewer").replaceChildren(h("h2", {}, "Episodes"), controls(filters), count, place);
    const found = await select(filters, (text) => { if (mine === turn) count.textContent = text; });
    if (mine !== turn) return;
    count.textContent = `${found.length.toLocaleString("en")} of ${total.toLocaleString("en")} episodes`;
    place.replaceChildren(found.length ? virtualList(found, filters) : h("p", {}, "No episode fits these filters."));
  }

  // One episode

  function long(text) {
    if (text.length <= LONGEST) return [text];
    const all = h("button", { type: "button" }, `show all ${text.length.toLocaleString("en")} characters`);
    const box = h("span", {}, text.slice(0, LONGEST), " … ", all);
    all.addEventListener("click", () => box.replaceChildren(visible(text)));
    return [box];
  }

  function body(one, next) {
    if (shown.tokens && one.pieces) {
      const given = one.pieces.length - one.logprobs.length; // tokens that the response was given
      return one.pieces.map((piece, place) => {
        const [value, level, negative] = OVERLAYS[shown.tokens](one, place - given);
        const known = value !== undefined && place >= given;
        const style = known ? `token ${negative(value) ? "n" : "p"}${level(value)}` : "token";
        const more = shown.tokens === "log-probability" ? `, probability ${percent(Math.exp(value))}` : "";
        return h("span", { class: style, title: known ? `${shown.tokens} ${value}${more}` : "given" }, piece || "∅");
      });
    }
    const parts = shown.difference && (one.changes ? [one.changes, "+", "ins"] : next?.changes && [next.changes, "-", "del"]);
    if (!parts) return long(one.text);
    const [changes, sign, tag] = parts;
    return changes.filter(([kind]) => kind === "=" || kind === sign).map(([kind, text]) => (kind === "=" ? text : h(tag, {}, text)));
  }

  function fact(name, value, tag = "span") {
    if (value === undefined || value === null || value === "") return null;
    return h("div", { class: "fact" }, h("span", { class: "name" }, name), " ", h(tag, { class: "value" }, value));
  }

  function attempt(one, place, next) {
    const grade = one.grade;
    const state = grade.score >= 1 ? "right" : "wrong";
    const status = grade.status === "graded" ? "" : `, ${grade.status.replace("_", " ")}`;
    return h("section", { class: `turn ${state}` },
      h("h3", {}, `Attempt ${place} `, h("span", { class: state }, `${state === "right" ? "✓" : "✗"} ${state}${status}`),
        one.finish && h("span", { class: "badge" }, "truncated")),
      h("pre", { class: "text" }, grade.status === "no_text" ? "text not in the file" : body(one, next)),
      grade.status === "no_text" ? null : fact("answer", answered(grade), "code"),
      fact("decided by", grade.decided_by),
      fact("because", grade.reason),
      fact("score", grade.score > 0 && grade.score < 1 ? number(grade.score) : null),
      fact("reward", one.reward === undefined ? null : number(one.reward)),
      fact("advantage in training", one.advantage === undefined ? null : number(one.advantage)),
      fact("KL to the reference, nats", one.kl && number(one.kl.reduce((a, b) => a + b, 0))),
      fact("tokens", one.tokens === undefined ? null : number(one.tokens)),
      fact("log-probability", one.logprobs && number(one.logprobs.reduce((a, b) => a + b, 0))),
      fact("written by", [one.author === "policy" ? "" : one.author, one.source].filter(Boolean).join(", ")),
      grade.output && h("div", { class: "fact" }, h("span", { class: "name" }, "program output"), h("pre", { class: "output" }, long(grade.output))));
  }

  function between_(one) {
    const said = one.author === "environment" ? "said in between" : `critique by ${one.source || one.author}`;
    return h("section", { class: "turn said" }, h("h3", {}, said), h("pre", { class: "text" }, body(one)));
  }

  function turnsOf(episode) {
    const answers = episode.turns.filter((one) => one.grade);
    return h("div", { class: "turns" }, episode.turns.map((one) => {
      const place = answers.indexOf(one);
      return place < 0 ? between_(one) : attempt(one, place + 1, answers[place + 1]);
    }));
  }

  async function showEpisode(row, filters) {
    const mine = turn;
    if (!(row >= 0 && row < total)) return missing("episode", row);
    const [found, episode, problem] = await Promise.all(
      [select(filters, () => {}), record("episode", row), record("problem", rows.problem[row])]);
    if (mine !== turn) return;
    const at = found.indexOf(row);
    const step = rows.step[row];
    const score = episode.turns.filter((one) => one.grade).at(-1)?.grade.score;
    $("viewer").replaceChildren(
      h("nav", { class: "steps" },
        h("a", { href: address("rows", filters) }, "← list"),
        h("a", { href: neighbour(found, at, -1, filters), title: "key p" }, "previous"),
        h("a", { href: neighbour(found, at, 1, filters), title: "key n" }, "next"),
        h("span", { role: "status" }, at < 0 ? "not in the list" : `${at + 1} of ${found.length.toLocaleString("en")}`),
        h("button", { type: "button", "aria-pressed": String(shown.difference), onclick: () => toggle("difference") }, "difference (d)"),
        overlaysOf(episode).map((name) =>
          h("button", { type: "button", "aria-pressed": String(shown.tokens === name), onclick: () => overlay(name) }, `${name} (t)`))),
      h("h2", {}, problem.id, " ", marks(row), badgesOf(row).map((name) => h("span", { class: "badge" }, name))),
      h("p", { class: "where" }, runs[rows.run[row]].name, step === null ? `, ${rows.part[row]}` : `, step ${step}`,
        `, sample ${rows.sample[row]}, ${episode.protocol} · `, h("a", { href: `#problem/${rows.problem[row]}` }, "this problem in all runs and samples")),
      h("div", { class: "problem" }, fact("question", problem.question, "pre"), fact("gold", problem.gold, "code"),
        fact("advantage", episode.others === undefined || score === undefined ? null
          : `${(score - episode.others).toFixed(3)} (last score ${number(score)} less the mean of the problem's other samples, ${number(episode.others)})`),
        fact("ended", episode.outcome === "finished" ? null : episode.outcome), fact("note", episode.note),
        Object.entries(episode.tags || {}).map(([name, value]) => fact(name, value))),
      turnsOf(episode),
      h("details", {}, h("summary", {}, "prompt and metadata"),
        (episode.messages || []).map(([role, text]) => h("div", { class: "fact" }, h("span", { class: "name" }, role), h("pre", {}, long(text)))),
        h("pre", {}, long(JSON.stringify(problem.metadata, null, 2)))));
  }

  async function showFirst(filters) {
    const mine = turn;
    const found = await select(filters, () => {});
    if (mine !== turn) return;
    location.replace(found.length ? address(`episode/${found[0]}`, filters) : address("rows", filters));
  }

  function neighbour(found, at, step, filters) {
    const next = found[Math.min(found.length - 1, Math.max(0, at + step))];
    return next === undefined ? address("rows", filters) : address(`episode/${next}`, filters);
  }

  // One problem, everywhere

  async function showProblem(place) {
    const mine = turn;
    if (!(place >= 0 && place < problems.id.length)) return missing("problem", place);
    const theirs = [];
    for (let row = 0; row < total; row++) if (rows.problem[row] === place) theirs.push(row);
    const some = theirs.slice(0, 300);
    const problem = await record("problem", place);
    const found = await Promise.all(some.map((row) => record("episode", row)));
    if (mine !== turn) return;
    const cells = some.map((row, i) => {
      const answers = found[i].turns.filter((one) => one.grade);
      const last = answers.at(-1)?.grade.score;
      const others = found[i].others;
      const rewards = answers.map((one) => one.reward).filter((value) => value !== undefined);
      return h("tr", {},
        h("td", {}, runs[rows.run[row]].name, rows.step[row] === null ? `, ${rows.part[row]}` : `, step ${rows.step[row]}`),
        h("td", {}, h("a", { href: `#episode/${row}?problem=${place}` }, `sample ${rows.sample[row]}`)),
        h("td", {}, marks(row)),
        h("td", {}, answers.map((one, k) => [k ? " → " : "", h("code", {}, answered(one.grade).slice(0, 120))])),
        h("td", { class: "number" }, last === undefined ? "" : number(last)),
        h("td", { class: "number" }, rewards.map(number).join(", ")),
        h("td", { class: "number" }, others === undefined || last === undefined ? "" : (last - others).toFixed(3)),
        h("td", { class: "number" }, rows.tokens[row] === null ? "" : number(rows.tokens[row])),
        h("td", {}, badgesOf(row).map((name) => h("span", { class: "badge" }, name))));
    });
    const heads = ["run", "episode", "verdicts", "answers", "last score", "rewards", "advantage", "tokens", "marked"];
    $("viewer").replaceChildren(h("h2", {}, problem.id), h("div", { class: "problem" },
        fact("question", problem.question, "pre"), fact("gold", problem.gold, "code"), fact("task", problem.task)),
      h("p", {}, `${theirs.length} episodes`, some.length < theirs.length ? `, of which the first ${some.length} are listed` : "",
        ". Advantage: last score less the mean of the problem's other samples in the same part or step."),
      h("table", {}, h("thead", {}, h("tr", {}, heads.map((name) => h("th", {}, name)))), h("tbody", {}, cells)));
  }

  function missing(what, which) {
    $("viewer").replaceChildren(h("p", {}, `There is no ${what} ${which} in this report.`), h("p", {}, h("a", { href: "#rows" }, "All episodes")));
  }

  // Addresses and keys

  const address = (view, filters) => `#${view}${filters.size ? "?" + filters : ""}`;
  const go = (view, filters) => { location.hash = address(view, filters); };

  function here() {
    const [path, query] = location.hash.slice(1).split("?");
    const [view, which] = path.split("/");
    return { view, which: Number(which), filters: new URLSearchParams(query || "") };
  }

  function show() {
    const { view, which, filters } = here();
    turn += 1;
    const inViewer = ["rows", "first", "episode", "problem"].includes(view);
    $("report").hidden = inViewer;
    $("viewer").hidden = !inViewer;
    if (view === "rows") showRows(filters);
    else if (view === "first") showFirst(filters);
    else if (view === "episode") showEpisode(which, filters);
    else if (view === "problem") showProblem(which);
    else if (view) $(view)?.scrollIntoView();
    if (inViewer) window.scrollTo(0, 0);
  }

  function toggle(what) {
    shown = { ...shown, [what]: !shown[what] };
    show();
  }

  function overlay(name) {
    shown = { ...shown, tokens: shown.tokens === name ? "" : name };
    show();
  }

  const KEYS = {
    n: () => step(1),
    p: () => step(-1),
    f: () => {
      const { filters } = here();
      go("rows", changed(filters, "flipped", filters.has("flipped") ? "" : "1"));
    },
    d: () => toggle("difference"),
    t: () => {
      const pressed = [...document.querySelectorAll(".steps button[aria-pressed]")].slice(1);
      const at = pressed.findIndex((one) => one.getAttribute("aria-pressed") === "true");
      (pressed[at + 1] || pressed[at])?.click(); // the next one; after the last one none
    },
    r: () => { location.hash = "#"; },
    "/": () => {
      if ($("search")) return $("search").focus();
      go("rows", here().filters);
      requestAnimationFrame(() => $("search")?.focus());
    },
    "?": () => $("help").showModal(),
  };

  async function step(by) {
    const { view, which, filters } = here();
    const found = await select(filters, () => {});
    if (found.length) location.hash = neighbour(found, view === "episode" ? found.indexOf(which) : -1, by, filters);
  }

  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (typing && event.key === "Escape") event.target.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    if (KEYS[event.key]) {
      event.preventDefault();
      KEYS[event.key]();
    }
  });
  $("help-button").addEventListener("click", () => $("help").showModal());
  window.addEventListener("hashchange", show);
  show();
})();
