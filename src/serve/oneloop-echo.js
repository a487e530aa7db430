// A connector of oneloop for Laravel Echo: new Echo({ broadcaster: OneloopConnector, url, token }).
//
// A channel of Laravel is the topic of that name, `private-` included, and the token alone decides who may have it. Events that were
// missed come after a reconnect.
function OneloopConnector(options) {
  "use strict";
  const namespace = options.namespace === undefined ? "App.Events" : options.namespace;
  const root = namespace ? namespace.replace(/\./g, "\\") + "\\" : "";
  const live = (options.client || globalThis.oneloop)(options.url, options);
  const channels = {};
  // Names of this page's connections, by which Laravel's `toOthers()` leaves it out.
  const conns = [];
  live.onState((state, why) => why.conn && conns.unshift(why.conn));

  // `OrderShipped` is a class of the namespace; a dot or a backslash at the start ends that.
  function format(event) {
    return /^[.\\]/.test(event) ? event.slice(1) : root + event.replace(/\./g, "\\");
  }

  function unsupported(what) {
    throw new Error("oneloop has no " + what);
  }

  function Channel(name) {
    let heard = [];
    const subscribe = live.subscribe(name);

    // Each listener is a handler of its own: one that fails harms no other.
    const hear = (event, call, tell) => {
      const off = live.on(name, (message) => {
        if (message && message.event && !conns.includes(message.socket)) tell(message.event, message.data);
      });
      heard.push({ event, call, off });
      return this;
    };
    const forget = (event, call) => {
      heard = heard.filter((one) => one.event !== event || (call && one.call !== call) || one.off());
      return this;
    };
    const watch = (off) => {
      heard.push({ off });
      return this;
    };

    this.name = name;
    this.listen = (event, call) =>
      hear(format(event), call, (found, data) => found === format(event) && call(data));
    this.listenToAll = (call) =>
      hear("", call, (found, data) => call(found.startsWith(root) ? found.slice(root.length) : "." + found, data));
    this.stopListening = (event, call) => forget(format(event), call);
    this.stopListeningToAll = (call) => forget("", call);
    const notification = ".Illuminate\\Notifications\\Events\\BroadcastNotificationCreated";
    this.notification = (call) => this.listen(notification, call);
    this.stopListeningForNotification = (call) => this.stopListening(notification, call);
    this.subscribed = (call) => {
      watch(live.onState((state, why) => (why.topics || []).includes(name) && call()));
      return watch(live.onSubscribed((frame) => frame.topic === name && call()));
    };
    this.error = (call) => watch(live.onError((refusal) => refusal.topic === name && call(refusal)));
    this.whisper = this.listenForWhisper = this.stopListeningForWhisper = () => unsupported("whispers");
    this.unsubscribe = () => {
      heard.forEach((one) => one.off());
      subscribe();
    };
  }

  this.channels = channels;
  this.live = live;
  this.channel = (name) => channels[name] || (channels[name] = new Channel(name));
  this.privateChannel = (name) => this.channel("private-" + name);
  this.presenceChannel = () => unsupported("presence channels");
  this.listen = (name, event, call) => this.channel(name).listen(event, call);
  this.leaveChannel = (name) => {
    if (channels[name]) channels[name].unsubscribe();
    delete channels[name];
  };
  this.leave = (name) => [name, "private-" + name].forEach(this.leaveChannel);
  this.socketId = () => conns[0];
  this.connectionStatus = () =>
    ({ open: "connected", waiting: "reconnecting", closed: "disconnected" })[live.state] || live.state;
  this.onConnectionChange = (call) => live.onState(() => call(this.connectionStatus()));
  this.disconnect = live.close;
}

if (typeof module === "object") module.exports = OneloopConnector;
