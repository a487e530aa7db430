// oneloop's client for browsers, WeChat mini programs and uni-app: one connection that comes back by itself.
//
//   const live = oneloop("wss://push.example.com/ws", { token: () => fetchToken() });
//   const off = live.on("room.7", (data) => show(data));
//
// There is one attempt at a time, and it has a number. Whatever reports later, a callback of a socket that was given up
// or a token that comes too late, finds that its number has passed and changes nothing.
function oneloop(url, options) {
  "use strict";
  options = options || {};

  // From the first attempt to the welcome, the token included.
  const CONNECT_MS = 15000;
  // From a ping to whatever comes next; less when there is reason for doubt.
  const PONG_MS = 10000;
  const DOUBT_MS = 5000;
  // A timer that fires so late was asleep with all else: what came meanwhile has yet to be read.
  const LATE_MS = 2000;
  // A connection that lived so long makes the next wait a short one again.
  const STABLE_MS = 5000;
  // A token refused twice at that age is no accident.
  const YOUNG_MS = 60000;
  // From this many topics on they are asked for by a list, of at most as many as fit into a message of the default size.
  const MANY = 9;
  const TOPICS_MAX = 100;
  // A longer query may not fit into the server's bound for a request's head; topics then go with the token, in a frame.
  const QUERY_CHARS_MAX = 4000;

  // A state that could not be loaded or caught up on is loaded again, later each time.
  const RELOAD_MS = 500;
  const RELOAD_MS_MAX = 30000;

  const page = typeof document !== "undefined" && document;
  const { parse, stringify } = JSON;
  // Another token can be had.
  const isFresh = typeof options.token === "function";
  const mini = options.platform || miniProgram();
  const handlers = new Map();
  const watchers = new Map();
  const states = new Set();
  const unanswered = new Map();

  let number = 0;
  let state = "closed";
  let link = null;
  let timer = 0;
  // Of the timer, as a time of day.
  let due = 0;
  let isProbing = false;
  let tries = 0;
  let openedAt = 0;
  // The server asked for that much patience.
  let notBefore = 0;
  let cursor = options.since || "";
  let token;
  let tokenAt = 0;
  // The fate of the token before this one: 1 if it expired, 2 if it was refused.
  let stale = 0;
  // Tokens travel in the first frame: always, since the handshake has no room for them or does not get them there; or once,
  // since a handshake failed, and nobody can read why.
  let frameAlways = options.place === "frame";
  let frameNext = false;
  // Attempts in a row that failed without a word from the server. From the second on, each other one is for an event stream.
  let failed = 0;
  let isStream = false;
  // Of this connection: what was asked for, and whose it is.
  let asked = new Set();
  let sub = null;
  let isSyncing = false;
  let references = 0;
  // Between two pings.
  let pause = 0;

  function now() {
    return Date.now();
  }

  function isOpen() {
    return state === "open";
  }

  function report(error) {
    console.error(error);
  }

  // A page is a page, whatever libraries it has loaded: those of WeChat and uni-app are called `wx` and `uni` there, too.
  function miniProgram() {
    const known = [typeof wx !== "undefined" && wx, typeof uni !== "undefined" && uni];
    return !(page && typeof WebSocket !== "undefined") && known.find((one) => one && one.connectSocket);
  }

  // ---- who is told

  function add(map, key, call) {
    const entry = { call };
    map.set(key, (map.get(key) || []).concat(entry));
    return () => {
      entry.call = null;
      const left = (map.get(key) || []).filter((one) => one.call);
      if (left.length) map.set(key, left);
      else map.delete(key);
    };
  }

  function tell(map, key, first, second) {
    (map.get(key) || []).forEach((entry) => {
      try {
        if (entry.call) entry.call(first, second);
      } catch (error) {
        report(error);
      }
    });
  }

  function become(next, why = {}) {
    state = next;
    tell(watchers, "state", next, why);
  }

  // `room.7` is heard by whoever asked for `room.7`, `room.*` or `*`. Behind `user.` stands an id, dots and all.
  function deliver(frame) {
    const topic = frame.topic;
    const keys = new Set([topic, "*"]);
    for (let dot = topic.indexOf("."); dot > 0 && !keys.has("user.*"); dot = topic.indexOf(".", dot + 1)) {
      keys.add(topic.slice(0, dot) + ".*");
    }
    // States are given what came since they were loaded, too.
    states.forEach((one) => one.hear(frame, keys.has(one.topic)));
    if (frame.id <= cursor) return;
    cursor = frame.id;
    keys.forEach((key) => tell(handlers, key, frame.data, frame));
  }

  // ---- what is asked for

  function wanted() {
    const topics = new Set(options.topics);
    handlers.forEach((_, topic) => topic === "*" || topics.add(topic));
    states.forEach((one) => topics.add(one.topic));
    return topics;
  }

  // Later, once for all that one piece of code changed: what it lets go of and takes up again is not mentioned.
  function sync() {
    if (isSyncing) return;
    isSyncing = true;
    Promise.resolve().then(() => {
      isSyncing = false;
      if (!isOpen()) return;
      const topics = wanted();
      if (isStream) {
        // It takes no commands: another one is asked for more topics, and begins where this one ended.
        topics.delete("user." + sub);
        if ([...topics].some((topic) => !asked.has(topic))) {
          drop();
          connect();
        }
        return;
      }
      list("subscribe", topics, asked);
      // A user's own topic cannot be given up.
      asked.delete("user." + sub);
      list("unsubscribe", asked, topics);
      asked = topics;
    });
  }

  // All topics that only the first set has: many in lists, which a message has room for; few one by one, as every server knows it.
  function list(op, all, others) {
    const topics = [...all].filter((topic) => !others.has(topic));
    while (topics.length) {
      command(topics.length < MANY ? { op, topic: topics.shift() } : { op, topics: topics.splice(0, TOPICS_MAX) });
    }
  }

  function command(frame) {
    const text = stringify(frame);
    try {
      if (link) link.send(text);
    } catch (error) {
      lost(number);
    }
  }

  function on(topic, call) {
    const off = add(handlers, topic, call);
    sync();
    return () => {
      off();
      sync();
    };
  }

  // The answer comes to one of these, at once.
  function ask(frame, answered, refused) {
    frame.ref = ++references;
    unanswered.set(frame.ref, [answered, refused]);
    command(frame);
  }

  function send(data, topic) {
    return new Promise((resolve, reject) => {
      const why = isOpen() ? isStream && "no_upstream" : "unavailable";
      if (why) return reject(failure(why));
      // Anything that is no JSON counts as null.
      const json = stringify(data) ? data : null;
      ask({ op: "send", data: json, topic: topic ? "" + topic : undefined }, (frame) => resolve(frame.id), reject);
    });
  }

  // ---- states

  // `load` fetches a state, and `apply` is called with each message since `place`, the cursor before the fetch.
  function follow(topic, load, apply) {
    let place = "";
    // The last id of this connection, null while nothing may be heard; and the one up to which it catches up, until one as great
    // comes.
    let last = null;
    let upTo = "";
    // Messages during the fetch: an event stream cannot be asked for them later.
    let held = null;
    let isLoading = false;
    let isLoaded = false;
    let failures = 0;

    function again() {
      isLoaded = isLoading = false;
      last = held = null;
      setTimeout(() => one.go(), Math.min(RELOAD_MS_MAX, RELOAD_MS * Math.pow(2, failures++)));
    }

    function use(frame) {
      try {
        apply(frame.data, frame);
      } catch (error) {
        report(error);
      }
    }

    function fetchState() {
      new Promise((resolve) => resolve(load())).then(
        () => {
          isLoading = false;
          // Begun by another connection: what came since is lost to a stream.
          if (isStream && !held) return one.go();
          isLoaded = true;
          if (!held) return catchUp();
          failures = 0;
          held.splice(0).forEach(use);
          held = null;
        },
        (error) => {
          report(error);
          again();
        }
      );
    }

    function catchUp() {
      if (!isOpen() || !states.has(one)) return;
      asked.add(topic);
      ask({ op: "subscribe", topic, since: place }, (frame) => {
        if (!frame.resumed) return again();
        failures = 0;
        last = "";
        upTo = frame.id;
      }, ({ code }) => {
        if (code === "busy") again();
        // The next connection asks again.
        else if (code !== "unavailable") tell(watchers, "error", { code, topic });
      });
    }

    const one = {
      topic,
      hear(frame, isMine) {
        if (last === null) return;
        if (frame.id >= upTo) upTo = "";
        if (!isMine || frame.id <= last) return;
        place = last = frame.id;
        if (held) held.push(frame);
        else use(frame);
      },
      // The connection is another one, which goes on where the one before was, or something is missing.
      go(isGap) {
        const wasWhole = last !== null && !held && !upTo;
        last = held = null;
        if (isLoading || !isOpen() || !states.has(one)) return;
        if (isLoaded && !isGap && (wasWhole || !isStream)) {
          if (!wasWhole) return catchUp();
          // All that was missed follows the welcome.
          last = upTo = "";
          return;
        }
        if (isStream && topic !== "user." + sub && !asked.has(topic)) return sync();
        isLoading = true;
        // Until it is over: the connection may end before it begins.
        isLoaded = false;
        place = cursor;
        if (isStream) {
          last = upTo = "";
          held = [];
          return fetchState();
        }
        // A cursor of now: behind a gap, and still held when the load is over. During a replay there is none.
        ask({ op: "ping", cursor: true }, (frame) => {
          place = frame.id || place;
          fetchState();
        }, () => {
          isLoading = false;
        });
      },
    };
    return hold(one);
  }

  // The users who subscribe to a topic, told whenever they change. Each connection asks for them anew.
  function members(topic, call) {
    let users = [];
    const one = {
      topic,
      hear() {},
      go() {
        // Behind the subscription.
        sync();
        setTimeout(() => isOpen() && command({ op: "members", topic }));
      },
    };
    return hold(one, add(watchers, "members", (frame) => {
      if (frame.topic !== topic) return;
      users = frame.users || users.concat(frame.joined).filter((user) => frame.left.indexOf(user) < 0);
      call(users, frame.count);
    }));
  }

  // Keeps to a topic, and has `one` begin anew with each connection.
  function hold(one, off) {
    states.add(one);
    one.go();
    return () => {
      if (off) off();
      states.delete(one);
      sync();
    };
  }

  function goAll(isGap) {
    states.forEach((one) => one.go(isGap));
  }

  function failure(code) {
    return Object.assign(new Error("oneloop: " + code), { code });
  }

  // ---- one connection

  function connect() {
    const own = ++number;
    wait(CONNECT_MS, () => lost(own, 0, "timeout"));
    become("connecting");
    if (own !== number) return;
    new Promise((resolve) => resolve(token || (isFresh ? options.token(stale > 0) : options.token))).then(
      (got) => {
        if (own !== number) return;
        if (got !== token) tokenAt = now();
        token = got;
        try {
          dial(own);
        } catch (error) {
          report(error);
          lost(own);
        }
      },
      () => lost(own, 0, "token")
    );
  }

  function dial(own) {
    asked = wanted();
    sub = null;
    const query = [...asked].map((topic) => "topic=" + encodeURIComponent(topic));
    if (cursor) query.push("since=" + cursor);
    const parameters = query.join("&");
    const said = (event) => {
      if (own === number) receive(event.data, place);
    };
    const closed = (event = {}) => lost(own, event.code, event.reason);
    const whole = url + (parameters && (url.indexOf("?") < 0 ? "?" : "&") + parameters);
    if (parameters.length > QUERY_CHARS_MAX) frameAlways = true;
    const place = token && (frameAlways || frameNext ? "frame" : options.place || (mini ? "header" : "protocol"));
    // Topics that the token permits cannot be asked for before it.
    const address = place === "frame" ? url : whole;
    const opened = () => {
      if (own !== number) return socket.close();
      frameNext = false;
      if (place === "frame") authenticate();
    };
    isStream = options.stream === undefined ? failed > 1 && failed % 2 < 1 : options.stream;
    // Until it opens: a handshake that fails is not explained to us, a refused frame is.
    if (!isStream) frameNext = !frameNext;
    const socket = isStream
      ? openStream(whole.replace(/^ws/, "http"), said, closed)
      : (mini ? openTask : openSocket)(address, place, opened, said, closed);
    if (own === number) link = socket;
    else socket.close();
  }

  function authenticate() {
    command({ op: "auth", token, since: cursor || undefined, topics: [...asked] });
  }

  function openSocket(address, place, opened, said, closed) {
    const protocols = ["oneloop.v1"];
    if (place === "protocol") protocols.push("bearer." + token);
    const socket = new WebSocket(address, protocols);
    socket.onopen = opened;
    socket.onmessage = said;
    socket.onclose = closed;
    return socket;
  }

  function openTask(address, place, opened, said, closed) {
    const header = place === "header" ? { Authorization: "Bearer " + token } : {};
    const fail = () => closed();
    // uni-app returns a promise instead of a task if there is no callback.
    // Browsers ask for compression by themselves; a server that does not compress declines.
    const task = mini.connectSocket({ url: address, header, perMessageDeflate: true, fail });
    task.onOpen(opened);
    task.onMessage(said);
    task.onClose(closed);
    task.onError(fail);
    return { send: (data) => task.send({ data, fail }), close: () => task.close({ fail() {} }) };
  }

  // Plain HTTP, for messages alone. A refusal is told in the form of the event `close`.
  function openStream(address, said, closed) {
    const headers = { Accept: "text/event-stream" };
    if (token) headers.Authorization = "Bearer " + token;
    // A character for each byte: pieces end anywhere, in the middle of a letter too.
    let rest = "";
    const feed = (bytes) => {
      bytes.forEach((byte) => (rest += String.fromCharCode(byte)));
      const events = rest.split("\n\n");
      rest = events.pop();
      events.forEach((event) => {
        const lines = decodeURIComponent(escape(event)).split("\n");
        const field = (name) => lines.filter((line) => !line.indexOf(name)).map((line) => line.slice(name.length)).join("\n");
        const data = field("data: ");
        if (field("event: ") === "close") closed(parse(data));
        // A heartbeat has a cursor of today.
        else said({ data: data || stringify({ op: "pong", id: field("id: ") }) });
      });
    };
    const end = (body) => {
      try {
        body = parse(rest);
      } catch (error) {
        // Not from oneloop.
      }
      closed(body || {});
    };
    const fail = () => closed();
    let request;
    if (mini) {
      const success = ({ data }) => end(data);
      // Its time is up when the server says so, or we do.
      request = mini.request({ url: address, header: headers, enableChunked: true, timeout: 864e5, success, fail });
      request.onChunkReceived(({ data }) => feed(new Uint8Array(data)));
    } else {
      request = new AbortController();
      const read = (reader) => reader.read().then(({ done, value }) => (done ? end() : (feed(value), read(reader))));
      fetch(address, { headers, signal: request.signal, cache: "no-store", credentials: options.credentials })
        .then((response) => read(response.body.getReader()))
        .catch(fail);
    }
    return { send() {}, close: () => request.abort() };
  }

  function receive(text, place) {
    if (isProbing) watch();
    let frame = {};
    try {
      frame = parse(text) || frame;
    } catch (error) {
      // A pong.
    }
    const op = frame.op;
    const answered = unanswered.get(frame.ref);
    unanswered.delete(frame.ref);
    if (op === "welcome") {
      const isStranger = token && frame.sub === null;
      if (isStranger && place !== "frame") {
        // It lets in whoever has no token, and ours did not get there.
        frameAlways = true;
        authenticate();
      }
      // Else ours is on its way.
      if (!isStranger || frameAlways) welcome(frame);
    } else if (op === "authed" && sub !== frame.sub) {
      // It knows the token now, but not what else came with it: the handshake is the place for that, if it can be.
      if (!frameAlways) return lost(number);
      sub = frame.sub;
      asked = new Set();
      sync();
      goAll();
    } else if (op === "gap") {
      tell(watchers, "gap", frame);
      goAll(true);
    } else if (answered && op !== "pong") {
      if (op === "error") answered[1](failure(frame.code));
      else answered[0](frame);
    } else if (!op && frame.topic && frame.id) {
      deliver(frame);
    } else if (op === "pong") {
      // A client that hears little has a cursor of today all the same.
      if (frame.id > cursor) cursor = frame.id;
      states.forEach((one) => one.hear(frame));
      if (answered) answered[0](frame);
    } else {
      // An error, a subscription, members.
      tell(watchers, op, frame);
    }
  }

  function welcome(frame) {
    const own = number;
    const isGap = cursor && !frame.resumed;
    cursor = frame.id;
    sub = frame.sub;
    stale = 0;
    if (!isStream) failed = 0;
    openedAt = now();
    pause = (frame.ping || 25) * 1000;
    watch();
    become("open", frame);
    sync();
    if (isGap && own === number) tell(watchers, "gap", frame);
    if (own === number) goAll(isGap);
  }

  // ---- its life

  function wait(ms, then) {
    clearTimeout(timer);
    due = now() + ms;
    timer = setTimeout(then, ms);
  }

  function watch() {
    isProbing = false;
    // A stream cannot be asked: its heartbeats come at that pace.
    if (isStream) probe(pause + PONG_MS);
    else wait(pause, () => probe(PONG_MS));
  }

  // Whatever comes is an answer. Whoever was asleep asks once more.
  function probe(ms, isAgain) {
    const own = number;
    isProbing = true;
    wait(ms, () => {
      if (!isAgain && now() - due > LATE_MS) probe(PONG_MS, true);
      else lost(own, 0, "silent");
    });
    command({ op: "ping", cursor: true });
  }

  // The page or the program is in front again, or the network is another one: what was open may be dead.
  function wake(event = {}) {
    const isOnline = event.isConnected || event.type === "online";
    if (event.isConnected === false || (page && page.hidden && !isOnline)) return;
    // WebSockets may get through another network.
    if (isOnline) failed = 0;
    if (state === "waiting" && now() >= notBefore) connect();
    else if (isOpen() && (!isProbing || now() > due)) probe(DOUBT_MS);
  }

  function listen(verb) {
    if (mini) {
      // Mini programs have the first, mini games the second.
      ["AppShow", "Show", "NetworkStatusChange"].forEach((name) => {
        if (mini[verb + name]) mini[verb + name](wake);
      });
      return;
    }
    const method = (verb === "on" ? "add" : "remove") + "EventListener";
    if (page) page[method]("visibilitychange", wake);
    if (typeof self !== "undefined" && self[method]) self[method]("online", wake);
  }

  function drop() {
    number++;
    clearTimeout(timer);
    isProbing = false;
    const old = link;
    link = null;
    try {
      if (old) old.close();
    } catch (error) {
      // It was closed already.
    }
    // A promise tells of it later: nobody changes this meanwhile.
    unanswered.forEach((one) => one[1](failure("unavailable")));
    unanswered.clear();
  }

  // Attempt `own` has ended, and is followed by another one unless the server says that this is of no use.
  function lost(own, code, text) {
    if (own !== number) return;
    const why = { code };
    try {
      Object.assign(why, parse(text));
    } catch (error) {
      why.reason = text;
    }
    const wasOpen = isOpen();
    // As browsers say it, and others: nobody has closed it.
    if (!wasOpen && (!code || code === 1006) && text !== "token") failed++;
    drop();
    if (code === 4501 && token && !frameAlways) {
      frameAlways = true;
    } else if (code === 4002 || (code === 4500 && mayAskAgain())) {
      token = null;
      stale = code === 4500 ? 2 : 1;
    } else if (code >= 4500 && code <= 4999) {
      return stop(why);
    }
    if (wasOpen && now() - openedAt > STABLE_MS) tries = 0;
    const patience = +why.retry || 0;
    notBefore = now() + patience;
    const most = options.backoffMsMax || 30000;
    wait(patience + Math.random() * Math.min(most, (options.backoffMs || 500) * Math.pow(2, tries++)), connect);
    become("waiting", why);
  }

  function mayAskAgain() {
    return isFresh && (stale < 2 || now() - tokenAt >= YOUNG_MS);
  }

  function stop(why) {
    listen("off");
    become("closed", why);
  }

  function open() {
    if (state !== "closed") return;
    token = null;
    tries = failed = 0;
    listen("on");
    connect();
  }

  function close() {
    if (state === "closed") return;
    drop();
    stop({});
  }

  open();
  return {
    on,
    // By a handler that changes nothing.
    subscribe: (topic) => on(topic, isOpen),
    follow,
    members,
    send,
    onGap: (call) => add(watchers, "gap", call),
    onState: (call) => add(watchers, "state", call),
    onError: (call) => add(watchers, "error", call),
    onSubscribed: (call) => add(watchers, "subscribed", call),
    open,
    close,
    get state() {
      return state;
    },
    get cursor() {
      return cursor;
    },
    get sub() {
      return sub;
    },
    get stream() {
      return isStream;
    },
  };
}

if (typeof module === "object") module.exports = oneloop;
