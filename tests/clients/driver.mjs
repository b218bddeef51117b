// Runs the SSE clients of npm. Commands come as JSON lines on standard input:
//   {"open": KEY, "client": NAME, "url": URL}   start a client
//   {"close": KEY}                              stop it
// Each thing that a client shows its user is reported as a JSON line on standard output:
//   {"key": KEY, "saw": "event", "type": TYPE, "data": DATA, "id": ID}
//   {"key": KEY, "saw": "error", "data": TEXT}  it reports an error, and may reconnect
//   {"key": KEY, "saw": "end", "data": TEXT}    it gave up

import { createInterface } from "node:readline";

import { fetchEventSource } from "@microsoft/fetch-event-source";
import polyfill from "event-source-polyfill";
import EventSource2 from "eventsource-2";
import { EventSource as EventSource3 } from "eventsource-3";
import { EventSource as EventSource5 } from "eventsource-5";
import { createEventSource } from "eventsource-client";
import ReconnectingEventSource from "reconnecting-eventsource";

// fetch-event-source is written for browsers. This is all it needs of one.
globalThis.window = { fetch, setTimeout, clearTimeout };
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };

// The types a page listens to: those of its publishers, and the server's own for a loss and an end.
const PAGE_TYPES = ["message", "price", "$reset", "$close"];
// And those that only move the cursor.
const TYPES = [...PAGE_TYPES, "$open", "$heartbeat"];
const CLOSED = 2;

// Report everything of an object that looks like a browser's EventSource; return a function that closes it.
function follow(source, see, types = TYPES) {
  for (const type of types) {
    source.addEventListener(type, (event) => see("event", event.data, event.type, event.lastEventId));
  }
  source.onerror = (error) => {
    const text = String(error?.message ?? error?.status ?? "");
    see(source.readyState === CLOSED ? "end" : "error", text);
  };
  return () => source.close();
}

// It wraps an EventSource: the browser's, or one that follows the standard as closely.
const RECONNECTING = { eventSourceClass: EventSource3, max_retry_time: 200 };

const CLIENTS = {
  "eventsource 2": (url, see) => follow(new EventSource2(url), see),
  "eventsource 3": (url, see) => follow(new EventSource3(url), see),
  "eventsource 5": (url, see) => follow(new EventSource5(url), see),
  "event-source-polyfill": (url, see) => follow(new polyfill.EventSourcePolyfill(url), see),
  // It learns ids from the types that have a listener, and from no others.
  "reconnecting-eventsource": (url, see) =>
    follow(new ReconnectingEventSource(url, RECONNECTING), see, PAGE_TYPES),
  "reconnecting-eventsource and $open": (url, see) =>
    follow(new ReconnectingEventSource(url, RECONNECTING), see),

  "eventsource-client": (url, see) => {
    const source = createEventSource({
      url,
      onMessage: ({ event, data, id }) => see("event", data, event, id),
      onDisconnect: () => see("error", "disconnected"),
    });
    return () => source.close();
  },

  "fetch-event-source": (url, see) => {
    const controller = new AbortController();
    fetchEventSource(url, {
      signal: controller.signal,
      openWhenHidden: true,
      onmessage: ({ event, data, id }) => see("event", data, event, id),
      // Its documentation: throw here to reconnect after a clean end.
      onclose: () => {
        throw new Error("the server ended the stream");
      },
      onerror: (error) => see("error", String(error)), // returns nothing: it reconnects
    }).catch((error) => see("end", String(error)));
    return () => controller.abort();
  },
};

const running = new Map();

function open({ open: key, client, url }) {
  const see = (saw, data, type = "", id = "") => {
    if (running.has(key)) console.log(JSON.stringify({ key, saw, type: type || "message", data, id }));
  };
  running.set(key, () => {});
  running.set(key, CLIENTS[client](url, see));
}

function close({ close: key }) {
  const stop = running.get(key);
  running.delete(key);
  stop?.();
}

console.error = () => {}; // event-source-polyfill logs each lost connection
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if ("open" in command) open(command);
  else close(command);
}
process.exit(0);
