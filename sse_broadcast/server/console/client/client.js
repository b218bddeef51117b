// sse-broadcast, MIT licence

const OWN_ID = /^([0-9a-f]{8})-(\d+)$/;
const LONGEST = 2 ** 31 - 1;

const jittered = (ms) => ms * (0.5 + Math.random() / 2);

/**
 * Follow channels of a server.
 *
 * The tab that holds a lock leads: it connects for all with this URL and user, and posts what comes. Each takes
 * what is behind its own position.
 *
 * @param {string | URL} url the server's `/events`
 * @param {import("./client.d.ts").Options} [options]
 * @returns {import("./client.d.ts").Subscription}
 */
export function subscribe(url, options = {}) {
	const { channels = "default", user = "", token: ask, headers, credentials, types = [], resume = true } = options;
	const href = new URL(url, document.baseURI).href;
	const mine = [channels].flat();
	const wanted = mine.map((name) => RegExp(`^${name.replaceAll(".", "\\.").replaceAll("*", ".*")}$`));
	const group = `sse-broadcast ${href} ${user}`;
	const slot = `${group} ${mine}`;
	const me = Math.random();
	const { locks } = navigator; // only where pages are secure
	const terms = []; // epochs of ids, oldest first
	let seen = [], repeats = []; // publishers' own ids, and what may come again
	let at = options.lastEventId; // the position of this member
	let bus = /** @type {any} */ (0);
	let ticking;
	let run = 0, covered = 0; // the newest connection, and the same if it has all that is needed here
	let quiet = 0, heartbeat = 12;

	let office = 0; // odd while it leads
	let resign, abort, wake, from, carried, restarting, pending, token, expiry;
	let members, unproven; // all, and those whose channels may be forbidden

	const rank = (id) => {
		const [, term, position] = OWN_ID.exec(id) ?? [];
		if (term && !terms.includes(term)) terms.push(term);
		return [terms.indexOf(term), +position];
	};

	const before = (id, other) => {
		const [term, position] = rank(id), [otherTerm, otherPosition] = rank(other);
		return term < otherTerm || (term === otherTerm && position < otherPosition);
	};

	const isNew = (id, time) => {
		if (OWN_ID.test(id)) return (!at || before(at, id)) && !!(at = id);
		const key = `${id} ${time}`, again = repeats.indexOf(key);
		return again < 0 ? (seen = [...seen, key].slice(-999)) : !repeats.splice(again, 1);
	};

	const call = (name, value) => {
		try {
			options[name]?.(value);
		} catch (error) {
			setTimeout(() => { throw error; });
		}
	};

	const isMine = (name) => wanted.some((each) => each.test(name));

	const dispatch = ({ event: type, id, data }) => {
		if (type === "$close") call("onclose", data);
		else if (!isNew(id, data.time)) return;
		else if (type === "$reset") {
			if (data.channels.some((name) => name.includes("*") || isMine(name))) call("onreset", data);
		} else if (data.channel) {
			const channel = (data.channels ?? [data.channel]).find(isMine);
			if (channel) call("onevent", { ...data, channel });
		}
	};

	const post = (message) => bus.postMessage?.(message);

	const join = () => post({ join: me, names: mine, since: at });
	const hear = (message) => {
		quiet = 0;
		if ((message.to ?? me) !== me) return;
		if (message.blocks) {
			if (message.run === covered) message.blocks.forEach(dispatch);
		} else if (message.run) {
			if (message.run < run) return;
			run = message.run;
			repeats = seen.slice();
			at ??= message.at ?? message.from;
			covered = mine.every((name) => message.names.includes(name)) && !before(at, message.from) && run;
			covered ? call("onopen") : join();
		} else if (message.failure) {
			if (message.to) close();
			call("onerror", message.failure);
		} else if (message.lost) {
			at = message.lost;
			call("onreset", { reason: "epoch", channels: mine, missed: null });
			join();
		} else if (message.who) join();
		else if (office % 2) {
			if (message.bye) members.delete(message.bye);
			if (message.join) admit(message.join, message.names, message.since);
		}
	};

	const tell = (message) => {
		post(message);
		hear(message);
	};

	const admit = (to, names, since) => {
		members.set(to, names);
		if (since && at && !terms.includes(since.slice(0, 8))) return post({ lost: at, to });
		const late = since && (!at || before(since, at));
		if (late && (!from || before(since, from))) from = since;
		if (!late && carried[0] && names.every((name) => carried.includes(name)))
			return post({ run, names: carried, from, at, to });
		unproven.add(to);
		restart();
	};

	const restart = (_) => (restarting ||= setTimeout(() => (abort?.(), wake()), 20));

	const pause = (ms) => new Promise((resolve) => setTimeout((wake = resolve), Math.min(ms, LONGEST)));

	const lead = async () => {
		const term = ++office;
		members = new Map([[me, mine]]);
		unproven = new Set([me]);
		from = at;
		tell({ who: 1 });
		if (locks) await pause(50);
		for (let failures = 0; term === office; ) {
			clearTimeout(restarting);
			restarting = 0;
			carried = [];
			let wait = await connect(term).catch((error) => {
				if (term === office && !restarting) tell({ failure: { status: 0, detail: `${error}` } });
				return -1;
			});
			failures = wait < 0 && failures + 1;
			if (failures) wait = jittered(Math.min(500 * 2 ** failures, 30_000));
			if (term === office && !restarting) await pause(wait);
		}
	};

	/** Return the milliseconds to wait then, or -1. */
	const connect = async (term, rejected = false) => {
		const controller = new AbortController();
		const { signal } = controller;
		let wait = -1, opened = 0, silence;
		abort = () => controller.abort();
		const alive = () => {
			clearTimeout(silence);
			silence = setTimeout(() => controller.abort(), heartbeat * 2500 + 1000);
		};
		alive();
		try {
			if (ask && (!token || rejected)) {
				const given = /** @type {any} */ (await ask({ rejected }));
				token = given.token ?? given;
				clearTimeout(expiry);
				const left = given.expires * 800 - Date.now() * 0.8 || LONGEST;
				expiry = setTimeout(() => restart(token = ""), Math.min(Math.max(left, 1000), LONGEST));
			}
			const names = [...new Set([...members.values()].flat())];
			const start = from;
			let target = `${href}?format=json&heartbeat=event&${new URLSearchParams(names.map((name) => ["channel", name]))}`;

			const take = (blocks) => {
				if (signal.aborted || term !== office) return;
				for (const { event, id, data, retry } of blocks) {
					if (event === "$open") heartbeat = data.heartbeat;
					wait = event === "$close" ? +retry : jittered(1000);
					if (!opened && event !== "$close") {
						opened = run + 1 + Math.random();
						carried = names;
						unproven.clear();
						tell({ run: opened, names, from: start ?? id, at });
					}
					if (OWN_ID.test(id)) from = id;
				}
				alive();
				tell({ run: opened || run, blocks });
			};

			if (!self.TextDecoderStream) {
				// An EventSource sends no headers, and ends for good at a 502; then comes another.
				if (start) target += `&last_event_id=${start}`;
				if (token) target += `&access_token=${encodeURIComponent(token)}`;
				const source = new EventSource(target, { withCredentials: credentials === "include" });
				for (const event of ["message", "$open", "$heartbeat", "$reset", "$close", ...types])
					source.addEventListener(event, ({ lastEventId: id, data }) =>
						take([{ event, id, data: JSON.parse(data), retry: 3000 }]),
					);
				await new Promise((resolve) => (source.onerror = signal.onabort = resolve));
				source.close();
				return wait;
			}
			const response = await fetch(target, {
				headers: {
					Accept: "text/event-stream",
					...headers,
					...(token && { Authorization: `Bearer ${token}` }),
					...(start && { "Last-Event-ID": start }),
				},
				credentials,
				cache: "no-store",
				signal,
			});
			if (response.status === 401 && ask && !rejected) return await connect(term, true);
			if (response.status !== 200) return await refused(response);
			const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
			for (let text = ""; ; ) {
				const { done, value } = await reader.read();
				if (done) return wait;
				alive();
				const parts = (text + value).split("\n\n");
				text = parts.pop();
				if (parts[0]) take(parts.map(parse));
			}
		} catch (error) {
			if (wait < 0) throw error;
			return wait;
		} finally {
			clearTimeout(silence);
		}
	};

	const parse = (text) => {
		const said = Object.fromEntries(text.split("\n").map((line) => line.split(/: (.*)/s)));
		return { ...said, data: JSON.parse(said.data) };
	};

	const refused = async (response) => {
		const { status } = response;
		if (status === 204) return tell({ blocks: [{ event: "$close", data: { reason: "finished" } }], run }), LONGEST;
		const failure = { status, ...(await response.json().catch(() => 0)) };
		if (status > 404 || status === 401) return tell({ failure }), -1;
		const [suspect, ...others] = unproven;
		if (!suspect) unproven = new Set(members.keys());
		else if (!others[0]) tell({ failure, to: (others[0] = suspect) });
		for (const id of others) members.delete(id), unproven.delete(id);
		return 0;
	};

	const campaign = async (steal) => {
		const { signal } = (pending = new AbortController());
		try {
			await locks.request(group, steal ? { steal } : { signal }, () => bus && (lead(), new Promise((done) => (resign = done))));
		} catch ({ name }) {
			if (signal.aborted) return;
			if (name !== "AbortError") return lead();
			leave(); // stolen
			enter();
		}
	};

	const tick = () => {
		if (office % 2) post({});
		else if (++quiet > 30) campaign(!(quiet = 0));
	};

	const enter = () => {
		if (bus) return;
		bus = locks ? new BroadcastChannel(group) : { close() {} };
		bus.onmessage = ({ data }) => hear(data);
		covered = quiet = 0;
		ticking = setInterval(tick, 3000);
		join();
		locks ? campaign(false) : lead();
	};

	const leave = () => {
		if (!bus) return;
		keep("setItem", at);
		post({ bye: me });
		bus.close();
		bus = 0;
		clearInterval(ticking);
		clearTimeout(expiry);
		token = "";
		office += office % 2;
		abort?.();
		wake?.();
		pending?.abort();
		resign?.();
	};

	const keep = (method, value) => {
		try {
			if (resume) return sessionStorage[method](slot, value);
		} catch {}
	};

	const events = /** @type {any[][]} */ ([
		[self, "pagehide", leave],
		[document, "freeze", leave],
		[self, "pageshow", enter],
		[document, "resume", enter],
		[self, "offline", () => abort?.()],
		[self, "online", () => wake?.()],
	]);

	const close = () => {
		leave();
		for (const [target, type, act] of events) target.removeEventListener(type, act);
		keep("removeItem");
	};

	at = keep("getItem") ?? at;
	rank(at);
	for (const [target, type, act] of events) target.addEventListener(type, act);
	enter();
	return { close };
}
