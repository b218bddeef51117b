/** A token, or what `POST /tokens` answers: with its end, in seconds since 1970, so that another is asked for in time. */
export type Token = string | { token: string; expires?: number };

/** An event, and where it came from. */
export interface Received {
	/** The channel of this subscription on which the event came. */
	channel: string;
	/** All of the event's channels that any tab follows, where they are several. */
	channels?: string[];
	id: string;
	/** The event's type; `message` where the publisher gave none. */
	event: string;
	/** The data as it was published: text, or JSON. */
	data: any;
	/** Seconds since 1970. */
	time: number;
}

/** Events were lost: load anew what they were to change. */
export interface Reset {
	reason: "evicted" | "slow" | "backend" | "epoch" | "unknown";
	channels: string[];
	missed: number | null;
}

export interface Failure {
	/** The response's status; 0 where there was no response. */
	status: number;
	title?: string;
	detail?: string;
}

export interface Options {
	/** Channels and patterns, such as `orders.*`; `default` where none is given. */
	channels?: string | string[];
	/** Who the token is of: tabs of different users share no connection. */
	user?: string;
	/** Called for the first token, before each expires, and with `rejected` after a 401. */
	token?: (why: { rejected: boolean }) => Token | Promise<Token>;
	/** Headers of each request, beside those that it needs. */
	headers?: Record<string, string>;
	/** As of `fetch`: `include` sends the cookies of another origin. */
	credentials?: RequestCredentials;
	/** An id of the server: begin behind it. That of a publish, or of the snapshot that the page was made of. */
	lastEventId?: string;
	/** Whether the tab's next page goes on where this one ends; true where it is not given. */
	resume?: boolean;
	/** Types of events beside `message`, for browsers that have only an EventSource. */
	types?: string[];
	/** The connection carries this subscription's channels, for the first time or again. */
	onopen?: () => void;
	onevent?: (event: Received) => void;
	onreset?: (loss: Reset) => void;
	/** The server ended the stream. The subscription goes on, but for the reason `finished`. */
	onclose?: (end: { reason: string }) => void;
	/** An attempt failed. It is tried again, but for a 4xx about this subscription's own channels. */
	onerror?: (failure: Failure) => void;
}

export interface Subscription {
	close(): void;
}

/**
 * Follow channels of a server.
 *
 * @param url the server's `/events`, without a query
 */
export function subscribe(url: string | URL, options?: Options): Subscription;
