
/* The console. All that publishers, clients and files say is put into the page as text. */

const POINTS = 120; // samples of a chart, one a second
const MOST_EVENTS = 200; // rows of the stream
const MOST_CHANNELS = 20_000; // channels of which rates are kept
const PER_TURN = 12; // events that are shown each quarter of a second
const WINDOW = 10; // seconds over which rates are taken

const $ = (id) => document.getElementById(id);
const base = new URL(".", location.href);
const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** Make an element. Children are elements or texts, never markup. */
const make = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
};
const number = (text) => make("td", { class: "number" }, text);
const rate = (value) => (value >= 10_000 ? short.format(value) : value >= 100 || Number.isInteger(value) ? whole.format(Math.round(value)) : value.toFixed(1));
const seconds = (value) => (value < 10 ? `${value.toFixed(1)} s` : value < 120 ? `${Math.round(value)} s` : value < 7200 ? `${Math.round(value / 60)} min` : `${Math.round(value / 3600)} h`);
const bytes = (value) => (value < 1024 ? `${Math.round(value)} B` : value < 1 << 20 ? `${(value / 1024).toFixed(1)} KiB` : `${(value / (1 << 20)).toFixed(1)} MiB`);
const told = (data) => (typeof data === "string" ? data : JSON.stringify(data));
const clock = (time) => new Date(time * 1000).toLocaleTimeString("en-GB", { hour12: false }) + `.${Math.floor((time % 1) * 10)}`;
const total = (counts) => Object.values(counts).reduce((sum, each) => sum + each, 0);
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

// The token, which stands in no URL and in nothing that outlives the tab.

const session = {
  get token() { return this.held ?? this.stored("getItem") ?? ""; },
  stored(method, ...values) {
    try { return sessionStorage[method]("sse-broadcast console token", ...values); } catch { return null; }
  },
  use(token, keep) {
    this.held = token;
    if (keep) this.stored("setItem", token);
    else this.stored("removeItem");
  },
  forget() {
    this.held = "";
    this.stored("removeItem");
  },
  headers() { return this.token ? { Authorization: `Bearer ${this.token}` } : {}; },
};

class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const ask = async (path, options = {}) => {
  const response = await fetch(new URL(path, base), { cache: "no-store", ...options, headers: { ...session.headers(), ...options.headers } });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, body.detail ?? response.statusText);
  return body;
};
const why = (error) => (error instanceof Refused ? error.message : "The server does not answer.");

// The charts: SVG paths that are drawn anew with each sample.

const SVG = "http://www.w3.org/2000/svg";
const charts = ["Published", "Delivered", "Subscribers", "Lost and reset"].map((name, index) => {
  const values = [];
  const draw = (kind) => {
    const made = document.createElementNS(SVG, "path");
    made.setAttribute("class", kind);
    return made;
  };
  const area = draw("area"), line = draw("line"), grid = draw("grid");
  grid.setAttribute("d", "M0 2H100M0 42H100");
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", "0 0 100 84");
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("aria-hidden", "true");
  picture.append(grid, area, line);
  const value = make("p", { class: "value" }, "–"), more = make("p", { class: "more" }, ""), most = make("span", {}, "");
  const box = make("div", { class: "chart", role: "group", "aria-label": name }, make("p", { class: "name" }, name + (index === 2 ? "" : " / s")), value, more, picture, make("div", { class: "scale" }, make("span", {}, "2 min ago"), most, make("span", {}, "now")));
  box.style.setProperty("--ink", `var(--c${index})`);
  $("charts").append(box);
  return (next, text) => {
    values.push(next);
    if (values.length > POINTS) values.shift();
    const top = Math.max(...values) || 1;
    const spots = values.map((each, at) => `${(((at + POINTS - values.length) / (POINTS - 1)) * 100).toFixed(2)} ${(82 - (each / top) * 78).toFixed(1)}`);
    line.setAttribute("d", `M${spots.join("L")}`);
    area.setAttribute("d", `M${(((POINTS - values.length) / (POINTS - 1)) * 100).toFixed(2)} 84L${spots.join("L")}L100 84Z`);
    value.textContent = rate(next);
    more.textContent = text;
    most.textContent = `most ${rate(Math.max(...values))}`;
  };
});

// The status stream: one sample a second.

let last = null;
let state = "connecting";
let statusRun = 0;

const setState = (next, text) => {
  state = next;
  document.body.dataset.state = next;
  const label = $("state").lastElementChild;
  if (label.textContent !== text) label.textContent = text;
  $("token-button").textContent = session.token ? "Forget token" : "Token";
};

const banner = (text) => {
  if ($("banner").textContent !== text) $("banner").textContent = text;
  $("banner").hidden = !text;
};

const take = (sample) => {
  if (last && sample.published >= last.published) {
    const span = Math.max(sample.time - last.time, 0.1);
    const per = (now, before) => Math.max(now - before, 0) / span;
    charts[0](per(sample.published, last.published), `${whole.format(sample.published)} since the start`);
    charts[1](per(sample.delivered, last.delivered), `${bytes(per(sample.written_bytes, last.written_bytes))}/s`);
    charts[2](sample.connected_clients, following ? "with this page" : "without this page");
    charts[3](per(total(sample.dropped) + total(sample.resets), total(last.dropped) + total(last.resets)), `${whole.format(total(sample.dropped))} dropped, ${whole.format(total(sample.resets))} resets`);
  }
  const empty = !sample.published;
  if (!empty && !$("welcome").hidden) {
    $("first").hidden = false;
    setTimeout(() => ($("first").hidden = true), 12_000);
  }
  $("welcome").hidden = !empty;
  $("version").textContent = sample.version;
  $("counts").replaceChildren(
    ...[
      ["Published", whole.format(sample.published)],
      ["Delivered", whole.format(sample.delivered)],
      ["Written", bytes(sample.written_bytes)],
      ["Channels held", whole.format(sample.history_channels)],
      ["History", bytes(sample.history_bytes)],
      ["Streams opened", whole.format(sample.opened)],
      ["Streams closed", reasons(sample.closed)],
      ["Dropped", reasons(sample.dropped)],
      ["Resets", reasons(sample.resets)],
      ["Sockets aborted", whole.format(sample.aborted)],
      ["Refused", reasons(sample.refused)],
    ].map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
  last = sample;
};

const reasons = (counts) => Object.entries(counts).map(([reason, count]) => `${reason} ${whole.format(count)}`).join(", ") || "0";

const watch = async () => {
  const run = ++statusRun;
  for (let failures = 0; run === statusRun; ) {
    const stop = new AbortController();
    let silence = setTimeout(() => stop.abort(), 10_000);
    try {
      const response = await fetch(new URL("status", base), { headers: { Accept: "text/event-stream", ...session.headers() }, cache: "no-store", signal: stop.signal });
      if (response.status === 401 || response.status === 403) {
        const { detail } = await response.json().catch(() => ({}));
        return gate(response.status, detail ?? "");
      }
      if (!response.ok) throw new Refused(response.status, response.statusText);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; run === statusRun; ) {
        const { done, value } = await reader.read();
        if (done) break;
        clearTimeout(silence);
        silence = setTimeout(() => stop.abort(), 6000);
        const blocks = (text + value).split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          const data = block.split("\n").find((line) => line.startsWith("data: "));
          if (!data || block.includes("event: $close")) continue;
          failures = 0;
          if (state !== "live") arrive();
          take(JSON.parse(data.slice(6)));
        }
      }
    } catch {} finally {
      clearTimeout(silence);
      stop.abort();
    }
    if (run !== statusRun) return;
    failures += 1;
    last = null;
    setState("gone", "no answer");
    banner("The server does not answer. This page tries again by itself.");
    await new Promise((resolve) => setTimeout(resolve, Math.min(500 * 2 ** failures, 8000)));
  }
};

const arrive = () => {
  setState("live", "live");
  banner("");
  if (!$("gate").hidden) {
    $("gate").hidden = true;
    show();
  }
  if (!following) follow();
};

const gate = (status, detail) => {
  statusRun += 1;
  unfollow();
  setState("closed", status === 401 ? "no token" : "not allowed");
  banner("");
  for (const each of document.querySelectorAll("main > section")) each.hidden = each.id !== "gate";
  $("gate-title").textContent = status === 403 ? "This token may not inspect" : session.token ? "This token is not good" : "This server asks for a token";
  if (detail && session.token) $("gate-why").textContent = `The server says: ${detail}`;
  $("token").focus();
};

$("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  session.use($("token").value.trim(), $("keep").checked);
  $("token").value = "";
  setState("connecting", "connecting");
  watch();
});
const forget = () => {
  session.forget();
  last = null;
  forgetEvents();
  setState("connecting", "connecting");
  watch();
};
$("forget").addEventListener("click", forget);
$("token-button").addEventListener("click", () => {
  if (session.token) forget();
  else gate(0, "");
});

// The events: one subscription for the whole page.

let following = null;
let received = 0;
let shownEvents = 0;
let paused = false;
let chosen = null;
let waiting = [];
const rates = new Map(); // of each channel: its counts of the last seconds, and its last event

const follow = () => {
  unfollow();
  const channels = $("follow").value.split(",").map((name) => name.trim()).filter(Boolean);
  if (!channels.length) return;
  $("sampled").textContent = "";
  following = subscribe(new URL("events", base), {
    channels,
    user: `console ${Math.random()}`, // shared with no other tab
    resume: false,
    token: session.token ? () => session.token : undefined,
    onevent: (event) => {
      received += 1;
      if (received === 1) $("first-text").append("On ", make("code", {}, event.channel), ": ", make("code", {}, told(event.data).slice(0, 200)));
      count(event);
      offer(event);
    },
    onreset: ({ reason, missed }) => offer({ loss: `Events were lost: ${reason}${missed ? `, ${missed} of them` : ""}`, time: Date.now() / 1000 }),
    onerror: ({ status, detail }) => {
      if (status) $("sampled").textContent = `No events: ${detail ?? status}`;
    },
  });
};
const unfollow = () => {
  following?.close();
  following = null;
};
const forgetEvents = () => {
  settings = null;
  for (const id of ["settings", "tables", "channel-rows", "subscriber-rows", "busiest", "slowest"]) $(id).replaceChildren();
  rates.clear();
  waiting = [];
  chosen = null;
  $("events").replaceChildren();
  $("detail").replaceChildren(make("p", { class: "empty" }, "Choose an event to look into it."));
  $("no-events").hidden = false;
};

const count = (event) => {
  for (const channel of event.channels ?? [event.channel]) {
    let kept = rates.get(channel);
    if (!kept) {
      if (rates.size >= MOST_CHANNELS) rates.delete(rates.keys().next().value);
      rates.set(channel, (kept = { seconds: new Uint32Array(WINDOW), at: 0, last: event }));
    }
    const now = Math.floor(Date.now() / 1000);
    if (kept.at !== now) {
      for (let each = Math.max(kept.at + 1, now - WINDOW + 1); each <= now; each += 1) kept.seconds[each % WINDOW] = 0;
      kept.at = now;
    }
    kept.seconds[now % WINDOW] += 1;
    kept.last = event;
  }
};
const rateOf = (channel) => {
  const kept = rates.get(channel);
  if (!kept) return 0;
  const now = Math.floor(Date.now() / 1000);
  let sum = 0;
  for (let each = Math.max(now - WINDOW + 1, kept.at - WINDOW + 1); each <= Math.min(kept.at, now); each += 1) sum += kept.seconds[each % WINDOW];
  return sum / WINDOW;
};

const offer = (event) => {
  if (paused) return;
  const sought = $("filter").value.toLowerCase();
  if (sought && !event.loss && !`${event.channel} ${event.event} ${told(event.data)}`.toLowerCase().includes(sought)) return;
  waiting.push(event);
  if (waiting.length > PER_TURN) waiting.splice(event.loss ? 0 : Math.floor(Math.random() * PER_TURN), 1); // a sample
};

const turn = () => {
  if (document.hidden) return;
  if (!waiting.length) return;
  const list = $("events");
  shownEvents += waiting.length;
  list.prepend(...waiting.reverse().map(row));
  waiting = [];
  while (list.children.length > MOST_EVENTS) list.lastChild.remove();
  $("no-events").hidden = true;
};
setInterval(turn, 250);

let before = { received: 0, shown: 0 };
setInterval(() => {
  const came = received - before.received, shown = shownEvents - before.shown;
  before = { received, shown: shownEvents };
  if (paused) $("sampled").textContent = `Paused. ${whole.format(came)} events/s arrive meanwhile.`;
  else if (came > shown && !$("filter").value) $("sampled").textContent = `A sample: ${whole.format(shown)} of ${whole.format(came)} events/s are shown.`;
  else if (came || !$("sampled").textContent.startsWith("No events")) $("sampled").textContent = came ? `All of ${whole.format(came)} events/s are shown.` : "";
}, 1000);

const row = (event) => {
  if (event.loss) return make("li", {}, make("button", { type: "button" }, make("span", { class: "at" }, clock(event.time)), make("span", { class: "loss" }, "$reset"), make("span", { class: "what loss" }, event.loss)));
  const button = make("button", { type: "button" }, make("span", { class: "at" }, clock(event.time)), make("span", { class: "channel" }, event.channel), make("span", { class: "what" }, event.event === "message" ? "" : `${event.event} `, told(event.data).slice(0, 300)));
  button.addEventListener("click", () => {
    chosen?.removeAttribute("aria-current");
    chosen = button;
    button.setAttribute("aria-current", "true");
    inspect(event);
  });
  return make("li", {}, button);
};

const inspect = (event) => {
  const text = typeof event.data === "string" ? pretty(event.data) : JSON.stringify(event.data, null, 2);
  const curls = [["Publish it again", publishLine({ ...event, data: told(event.data), json: typeof event.data !== "string" })], ["Subscribe to what comes after it", `curl -N${auth()} ${quoted(`${base}events/${event.channel}?since=${event.id}`)}`]];
  $("detail").replaceChildren(
    make("h2", {}, event.channel),
    make("dl", {}, ...[["id", event.id], ["type", event.event], ["time", new Date(event.time * 1000).toISOString()], ["channels", (event.channels ?? [event.channel]).join(", ")]].flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    make("pre", { tabindex: "0", "aria-label": "Data" }, text),
    ...curls.flatMap(([label, line]) => {
      const code = make("code", { tabindex: "0" }, line);
      return [make("p", { class: "hint" }, label), make("div", { class: "curl" }, code, make("button", { type: "button", "aria-label": `Copy: ${label}`, onclick: (click) => copy(click.currentTarget, line) }, "Copy"))];
    }),
  );
};
const pretty = (text) => {
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
};
const auth = () => (session.token ? ' -H "Authorization: Bearer $TOKEN"' : "");
const bodyOf = ({ event, key, data, json }) => {
  const rest = JSON.stringify({ ...(event && event !== "message" && { event }), ...(key && { key }) });
  // As it was written: numbers that a page cannot hold stay as they are.
  const said = json ? `"data":${data}` : `"message":${JSON.stringify(data)}`;
  return `{${said}${rest === "{}" ? "" : ","}${rest.slice(1)}`;
};
const publishLine = (message) => {
  const { channel, event, key, data, json } = message;
  const url = `${base}send/${encodeURIComponent(channel)}`;
  if (json || key || (event && event !== "message")) return `curl${auth()} -H "Content-Type: application/json" --data-raw ${quoted(bodyOf(message))} ${quoted(url)}`;
  return `curl${auth()} --data-raw ${quoted(data)} ${quoted(url)}`; // -d would read a file for what begins with @
};

const copy = async (button, text) => {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select it";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
};
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button, $(button.dataset.copy).textContent));
$("curl-subscribe").textContent = `curl -N ${base}events`;
$("curl-publish").textContent = `curl -d hello ${base}send`;

$("follow-form").addEventListener("submit", (event) => {
  event.preventDefault();
  forgetEvents();
  follow();
});
$("pause").addEventListener("click", () => {
  paused = !paused;
  waiting = [];
  $("pause").setAttribute("aria-pressed", paused);
  $("pause").textContent = paused ? "Resume" : "Pause";
});
$("clear").addEventListener("click", () => {
  $("events").replaceChildren();
  $("no-events").hidden = false;
});

// The lists.

const busiest = (most, prefix = "") => {
  const found = [];
  for (const [channel] of rates) if (channel.startsWith(prefix)) found.push([channel, rateOf(channel)]);
  return found.sort((one, two) => two[1] - one[1] || (one[0] < two[0] ? -1 : 1)).slice(0, most);
};
const lastOf = (channel) => {
  const { last: event } = rates.get(channel) ?? {};
  if (!event) return make("td", { class: "text faint" }, "not since this page was opened");
  return make("td", { class: "text" }, `${seconds(Math.max(Date.now() / 1000 - event.time, 0))} ago  ${told(event.data).slice(0, 120)}`);
};
const nothing = (columns, text) => make("tr", {}, make("td", { colspan: columns, class: "empty" }, text));

let known = new Map(); // the channels of the page that is shown, as the server has them
let after = "";
let next = null;

const channelsView = async () => {
  const prefix = $("prefix").value.trim(), busy = $("order").value === "busy";
  const page = await ask(`channels?limit=100&prefix=${encodeURIComponent(prefix)}&after=${encodeURIComponent(busy ? "" : after)}`);
  for (const each of page.channels) known.set(each.channel, each);
  if (known.size > 2000) known = new Map(page.channels.map((each) => [each.channel, each]));
  next = page.next;
  const live = busy ? busiest(100, prefix).map(([channel]) => channel) : [];
  if (busy) {
    const unknown = live.slice(0, 10).filter((channel) => !page.channels.some((each) => each.channel === channel));
    for (const each of await Promise.all(unknown.map((channel) => ask(`channels/${encodeURIComponent(channel)}`).catch(() => null)))) if (each) known.set(each.channel, each);
  }
  const names = busy ? [...new Set([...live, ...page.channels.map((each) => each.channel)])].slice(0, 100) : page.channels.map((each) => each.channel);
  $("next-page").disabled = busy || !next;
  $("first-page").disabled = busy || !after;
  $("channels-note").textContent = (names.length === 100 ? "100 are shown; " : `${names.length} are shown; `) + (last ? `the history holds ${whole.format(last.history_channels)}. ` : "") + "Rates are of what the stream view follows.";
  $("channel-rows").replaceChildren(
    ...(names.length ? names.map((name) => {
      const { subscribers, events } = known.get(name) ?? {};
      return make("tr", {}, make("td", { class: "mono" }, name), number(subscribers === undefined ? "–" : whole.format(subscribers)), number(events === undefined ? "–" : whole.format(events)), number(rate(rateOf(name))), lastOf(name));
    }) : [nothing(5, prefix ? "No channel begins so." : "No channel yet.")]),
  );
};

const subscribersView = async () => {
  const page = await ask(`subscribers?limit=50&sort=${$("sort").value}`);
  $("subscribers-note").textContent = page.total > 50 ? `50 of ${whole.format(page.total)} are shown.` : `${page.total} ${page.total === 1 ? "is" : "are"} connected.`;
  // A button that has the focus would lose it with its row.
  const held = document.activeElement?.dataset?.subscriber;
  $("subscriber-rows").replaceChildren(
    ...(page.subscribers.length ? page.subscribers.map((each) => {
      const who = each.caller ? `${each.address} (${each.caller.name})` : each.address;
      const button = make("button", { type: "button", "data-subscriber": each.id, "aria-label": `Disconnect ${each.id}`, onclick: () => disconnect(each, who) }, "Disconnect");
      return make("tr", {}, make("td", { class: "mono" }, each.id), make("td", {}, who), make("td", { class: "text" }, each.channels.join(", ")), make("td", {}, each.state), number(seconds(each.lag)), number(whole.format(each.behind)), number(bytes(each.queued_bytes)), number(whole.format(each.drops)), number(whole.format(each.events)), number(seconds(each.age)), make("td", {}, button));
    }) : [nothing(11, "No subscriber is connected.")]),
  );
  if (held) document.querySelector(`[data-subscriber="${CSS.escape(held)}"]`)?.focus();
};

const disconnect = ({ id, channels }, who) => {
  $("confirm-text").textContent = `Disconnect subscriber ${id} of ${who}, which follows ${channels.slice(0, 5).join(", ")}? Most clients come back by themselves.`;
  $("confirm").returnValue = "no";
  $("confirm").showModal();
  $("confirm").onclose = async () => {
    if ($("confirm").returnValue !== "yes") return;
    try {
      await ask(`subscribers/${id}`, { method: "DELETE" });
      refresh();
    } catch (error) {
      $("subscribers-note").textContent = `Not disconnected: ${why(error)}`;
    }
  };
};

const overviewView = async () => {
  const busy = busiest(8);
  $("busiest").replaceChildren(...(busy.length ? busy.map(([name, each]) => make("tr", {}, make("td", { class: "text" }, name), number(rate(each)), lastOf(name))) : [nothing(3, "No event since this page was opened.")]));
  const { subscribers } = await ask("subscribers?limit=8&sort=lag");
  $("slowest").replaceChildren(...(subscribers.length ? subscribers.map((each) => make("tr", {}, make("td", { class: "text" }, `${each.id}  ${each.address}  ${each.channels.slice(0, 3).join(", ")}`), number(seconds(each.lag)), number(whole.format(each.behind)), number(whole.format(each.drops)))) : [nothing(4, "No subscriber is connected.")]));
};

let settings = null;
const configView = async () => {
  $("settings-card").hidden = true;
  settings = null;
  settings = await ask("config");
  $("settings-card").hidden = false;
  showSettings();
};
const showSettings = () => {
  if (!settings) return;
  const sought = $("setting").value.toLowerCase(), changed = $("changed").checked;
  const rows = settings.settings.filter(({ name, help, source }) => `${name} ${help}`.toLowerCase().includes(sought) && (!changed || source !== "default"));
  const value = (each) => (Array.isArray(each) ? each.join(", ") || "none" : each === "" ? "none" : String(each));
  $("config-note").textContent = `${rows.length} of ${settings.settings.length} settings. Secrets are not shown.`;
  $("settings").replaceChildren(...rows.map((each) => make("tr", {}, make("td", { class: "mono" }, each.name), make("td", { class: "mono" }, value(each.value)), make("td", {}, make("span", { class: each.source === "default" ? "chip" : "chip own" }, each.source)), make("td", { class: "faint" }, each.help, each.restart ? " (needs a restart)" : ""))));
  $("tables").replaceChildren(...settings.tables.map(({ name, source, tables }) => make("div", { class: "card" }, make("h2", {}, `[[${name}]] `, make("span", { class: "chip own" }, source)), ...tables.map((each) => make("dl", {}, ...Object.entries(each).map(([key, said]) => make("div", {}, make("dt", {}, key), make("dd", {}, value(said)))))))));
};

// What is published by hand.

const draft = () => ({ channel: $("p-channel").value.trim(), event: $("p-type").value.trim(), key: $("p-key").value.trim(), data: $("p-data").value, json: $("p-json").checked && !!$("p-data").value.trim() });
const checked = () => {
  $("p-curl").textContent = publishLine(draft());
  $("p-check").className = "hint";
  $("p-check").textContent = "";
  if (!$("p-json").checked || !$("p-data").value.trim()) return true;
  try {
    JSON.parse($("p-data").value);
    $("p-check").textContent = "This is JSON.";
    return true;
  } catch (error) {
    $("p-check").className = "hint bad";
    $("p-check").textContent = `This is no JSON: ${error.message}`;
    return false;
  }
};
$("publish-form").addEventListener("input", checked);
$("publish-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = draft();
  if (!checked()) return $("p-data").focus();
  $("p-result").className = "";
  try {
    const answer = await ask(`send/${encodeURIComponent(said.channel)}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: bodyOf(said) });
    $("p-result").textContent = `Published as ${answer.id}, to ${answer.clients} ${answer.clients === 1 ? "subscriber" : "subscribers"}.`;
  } catch (error) {
    $("p-result").className = "bad";
    $("p-result").textContent = `Not published: ${why(error)}`;
  }
});
checked();

// The views.

const views = { overview: [overviewView, 2000], stream: [], channels: [channelsView, 2000, "channels-note"], subscribers: [subscribersView, 2000, "subscribers-note"], publish: [], config: [configView, 0, "config-note"] };
let timer = 0;
let refreshing = 0;

const current = () => (location.hash.slice(1) in views ? location.hash.slice(1) : "overview");

const refresh = async () => {
  clearTimeout(timer);
  const name = current(), [load, every, note] = views[name], run = ++refreshing;
  if (!load || state === "closed") return;
  if (!document.hidden && state === "live") {
    try {
      await load();
    } catch (error) {
      if (note) $(note).textContent = error.status === 403 || error.status === 401 ? `Not for this token: ${why(error)}` : why(error);
    }
  }
  if (run === refreshing && (every || state !== "live")) timer = setTimeout(refresh, every || 1000);
};

const show = (moved) => {
  const name = current();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) {
      link.setAttribute("aria-current", "page");
      link.parentElement.scrollLeft = link.offsetLeft - link.parentElement.offsetLeft - 60;
    } else link.removeAttribute("aria-current");
  }
  if (state === "closed") return;
  for (const each of document.querySelectorAll("main > section")) each.hidden = each.id !== name;
  document.title = `${$(`${name}-title`).textContent} – sse-broadcast`;
  if (moved) $("main").focus({ preventScroll: true });
  scrollTo(0, 0);
  refresh();
};
addEventListener("hashchange", () => show(true));
document.addEventListener("visibilitychange", refresh);
for (const id of ["prefix", "order"]) $(id).addEventListener("input", () => { after = ""; refresh(); });
$("sort").addEventListener("input", refresh);
$("next-page").addEventListener("click", () => { after = next ?? ""; refresh(); });
$("first-page").addEventListener("click", () => { after = ""; refresh(); });
for (const id of ["setting", "changed"]) $(id).addEventListener("input", showSettings);
for (const form of document.querySelectorAll("form.bar")) form.addEventListener("submit", (event) => event.preventDefault());

show();
watch();
