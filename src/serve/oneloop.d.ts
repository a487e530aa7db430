// Types of oneloop's client: oneloop.js is a script and a CommonJS module, oneloop.mjs an ES module.

/** Opens one connection that comes back by itself. */
declare function oneloop(url: string, options?: oneloop.Options): oneloop.Client;

declare namespace oneloop {
  interface Options {
    /**
     * The token, or where it comes from; none for an anonymous client. It is asked for before the first attempt and kept.
     * `stale`: the one before expired or was refused, so one from a cache of yours is of no use.
     */
    token?: string | ((stale: boolean) => string | null | undefined | Promise<string | null | undefined>);
    /** Topics to subscribe to for as long as the client lives. */
    topics?: Iterable<string>;
    /** The cursor of an earlier client: what came since is heard first, if the server still has it. */
    since?: string;
    /** Where the token travels. By default a header in mini programs, and a subprotocol in browsers, which have no headers. */
    place?: "header" | "protocol" | "frame";
    /** The longest wait before the first new attempt; it doubles with each. By default 500. */
    backoffMs?: number;
    /** The longest wait before any new attempt. By default 30000. */
    backoffMsMax?: number;
    /**
     * `true`: by an event stream (plain HTTP) from the start; `false`: never. By default after WebSockets have failed twice without
     * a reason, until the network changes.
     */
    stream?: boolean;
    /** Of `fetch`, for streams: `include` sends cookies to another origin. */
    credentials?: "include" | "omit" | "same-origin";
    /** An object like `wx` and `uni`, where there is another one. */
    platform?: unknown;
  }

  interface Message<Data = any> {
    topic: string;
    /** The cursor that includes it. */
    id: string;
    data: Data;
    /** The message supersedes earlier ones with the same topic and key. */
    key?: string;
    /** Instead of `data`, for what is not UTF-8: base64. */
    data64?: string;
  }

  type State = "connecting" | "open" | "waiting" | "closed";

  /** Why it ended, or how it was welcomed. */
  interface Why {
    /** Of the close frame; 0 or none if there was none. */
    code?: number;
    /** A word, such as `expired`, `silent`, `timeout`, `token`. */
    reason?: string;
    /** Something for people. */
    detail?: string;
    /** The server asked for that much patience, in milliseconds. */
    retry?: number;
    /** Of the welcome: what this connection hears. */
    topics?: string[];
    /** Of the welcome: whether what was missed follows. */
    resumed?: boolean;
  }

  interface Gap {
    op: "gap" | "welcome";
    /** The cursor behind which something is missing, or behind which all is held. */
    from?: string;
  }

  interface Refusal {
    code: string;
    topic?: string;
  }

  /** Ends what it came from; a second call does nothing. */
  type Off = () => void;

  interface Client {
    /**
     * Calls `call` with each message on the topic, or on those that `room.*` covers, and subscribes to it; the last `off` of a
     * topic unsubscribes. `*` is whatever comes, and subscribes to nothing.
     */
    on<Data = any>(topic: string, call: (data: Data, message: Message<Data>) => void): Off;
    /** Subscribes, for those who listen to `*`. */
    subscribe(topic: string): Off;
    /**
     * Keeps a state right: calls `load`, which fetches it, and then `apply` with each message on the topic since the fetch began, in
     * order and once. After a gap, or if `load` fails, it is loaded again. A message that the fetched state includes may be
     * applied once more.
     */
    follow<Data = any>(
      topic: string,
      load: () => unknown,
      apply: (data: Data, message: Message<Data>) => void
    ): Off;
    /**
     * Subscribes to a topic, and calls `call` with the users who do so as well, now and whenever they change, and with their number,
     * which may be greater than a long list. The setting `members` of the route must allow it; else `onError` is told.
     */
    members(topic: string, call: (users: string[], count: number) => void): Off;
    /**
     * Sends to the back end. Resolves when that has it, with the id of the stream's entry if there is one; rejects with an error
     * whose `code` is `unavailable` (perhaps it arrived, perhaps not), `busy`, `forbidden`, `bad_topic` or `bad_command`, or
     * `no_upstream`: a stream brings messages only.
     */
    send(data: unknown, topic?: string): Promise<string | undefined>;
    /** Messages may have been missed: fetch your state again. */
    onGap(call: (gap: Gap) => void): Off;
    onState(call: (state: State, why: Why) => void): Off;
    /** A topic was refused. */
    onError(call: (refusal: Refusal) => void): Off;
    /** The server has subscribed this client to a topic that was asked for while it was open; `welcome` names the others. */
    onSubscribed(call: (subscription: { topic: string }) => void): Off;
    /** Begins again after the end, with a token that is asked for anew. */
    open(): void;
    /** Ends for good, until `open`. */
    close(): void;
    readonly state: State;
    /** Of the latest message, to be kept for `since`; empty before the first welcome. */
    readonly cursor: string;
    /** The user whom the server knows this connection by. */
    readonly sub: string | null;
    /** Whether this connection, or the latest attempt, is an event stream. */
    readonly stream: boolean;
  }
}

export = oneloop;
export as namespace oneloop;
