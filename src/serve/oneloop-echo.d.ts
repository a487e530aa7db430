// Types of oneloop's connector for Laravel Echo: oneloop-echo.js is a script and a CommonJS module, oneloop-echo.mjs an ES module.

import oneloop = require("./oneloop");

/** Connects Laravel Echo to oneloop: `new Echo({ broadcaster: OneloopConnector, url, token })`. */
declare class OneloopConnector {
  constructor(options: OneloopConnector.Options);
  /** The client below: its `onGap` tells that events may be missing. */
  readonly live: oneloop.Client;
  /** Those that are in use, by their full names. */
  readonly channels: Record<string, OneloopConnector.Channel>;
  channel(name: string): OneloopConnector.Channel;
  /** The channel `private-` and the name. */
  privateChannel(name: string): OneloopConnector.Channel;
  /** Throws: oneloop has none. */
  presenceChannel(name: string): never;
  listen(name: string, event: string, call: (data: any) => void): OneloopConnector.Channel;
  /** Leaves a channel and the private one of that name. */
  leave(name: string): void;
  /** Leaves the channel with this full name. */
  leaveChannel(name: string): void;
  /** The connection that `toOthers()` leaves out; none before the first one is open. */
  socketId(): string | undefined;
  connectionStatus(): OneloopConnector.Status;
  onConnectionChange(call: (status: OneloopConnector.Status) => void): () => void;
  disconnect(): void;
}

declare namespace OneloopConnector {
  interface Options extends oneloop.Options {
    /** Where oneloop listens: `wss://push.example.com/ws`. */
    url: string;
    /** The function of oneloop.js, unless it is a global one. */
    client?: typeof oneloop;
    /** Of the events' classes, by default `App.Events`; false if their names are given whole. */
    namespace?: string | false;
    /** Options of Echo. */
    [name: string]: any;
  }

  type Status = "connected" | "connecting" | "reconnecting" | "disconnected";

  interface Channel {
    /** With `private-`. */
    readonly name: string;
    listen(event: string, call: (data: any) => void): this;
    listenToAll(call: (event: string, data: any) => void): this;
    /** Without `call`: all listeners of the event. */
    stopListening(event: string, call?: (data: any) => void): this;
    stopListeningToAll(call?: (event: string, data: any) => void): this;
    notification(call: (data: any) => void): this;
    stopListeningForNotification(call: (data: any) => void): this;
    /** Calls each time that the server has subscribed this page, after reconnects too. */
    subscribed(call: () => void): this;
    /** The token does not grant the channel. */
    error(call: (refusal: oneloop.Refusal) => void): this;
    /** Throws: oneloop has no whispers. */
    whisper(event: string, data?: any): never;
    listenForWhisper(event: string, call?: (data: any) => void): never;
    stopListeningForWhisper(event: string, call?: (data: any) => void): never;
    unsubscribe(): void;
  }
}

export = OneloopConnector;
export as namespace OneloopConnector;
