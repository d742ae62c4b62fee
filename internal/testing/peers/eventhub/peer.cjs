// A namespace of Event Hubs as far as producers see it, on rhea, an AMQP 1.0 by
// another hand than the client's. It is told what to do by lines of JSON on its
// standard input, answers each with a line on its standard output, and ends when
// the input does.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const readline = require('readline');
const rhea = require('rhea');
const { WebSocketServer } = require('ws');

const batchFormat = 0x80013700; // of a message that holds encoded events
const longestKey = 128; // characters of a partition key

const log = process.argv[3] ? fs.openSync(process.argv[3], 'a+') : null; // of what is stored, for the next process
const hubs = new Map(); // name -> { partitions, discards, stored, transfers, fault, max, ... }
const connections = new Set();
let policies = {}; // of the namespace: key name -> { secret, claims }

const container = rhea.create_container({ id: 'eventhubs' });

// A SAS token as the service checks it; returns why it is refused, or ''.
function refusal(token, audience, keys) {
  const fields = new URLSearchParams(String(token).replace(/^SharedAccessSignature /, ''));
  const key = keys[fields.get('skn')];
  if (!key) return 'no such key';
  const sr = /(?:^|[ &])sr=([^&]*)/.exec(String(token))[1];
  const want = crypto.createHmac('sha256', key.secret).update(`${sr}\n${fields.get('se')}`).digest('base64');
  if (fields.get('sig') !== want) return 'invalid signature';
  if (Number(fields.get('se')) * 1000 < Date.now()) return 'expired token';
  if (fields.get('sr').toLowerCase() !== audience.toLowerCase()) return 'another audience';
  return '';
}

// The name of the hub in amqp[s]://host/hub, or in an address.
const hubOf = (text) => String(text).replace(/^amqps?:\/\/[^/]*\//, '').split('/')[0];

function authorise(context, message) {
  const properties = message.application_properties;
  const hub = hubs.get(hubOf(properties.name));
  const granted = (context.connection.granted = context.connection.granted || new Map());
  let status = [202, 'Accepted'];
  if (hub && hub.refuse) {
    status = [hub.refuse, 'refused'];
  } else if (properties.type === 'jwt') {
    if (hub && hub.tokens.includes(String(message.body))) granted.set(hubOf(properties.name), ['Send']);
    else status = [401, 'InvalidToken'];
  } else {
    const why = refusal(message.body, properties.name, policies);
    if (why) status = [401, why];
    else granted.set(hubOf(properties.name), policies[new URLSearchParams(String(message.body).replace(/^SharedAccessSignature /, '')).get('skn')].claims);
  }
  if (hub) hub.claims++;
  const reply = context.connection.replies && context.connection.replies[message.reply_to];
  if (!reply) return;
  reply.send({
    correlation_id: message.message_id, body: '',
    application_properties: { 'status-code': rhea.types.wrap_int(status[0]), 'status-description': status[1] + ' TrackingId:abc_G1' },
  });
}

// A client wants to receive: answers of $cbs only.
container.on('sender_open', ({ sender, connection }) => {
  const attach = sender.remote.attach;
  sender.local.attach.snd_settle_mode = attach.snd_settle_mode;
  sender.local.attach.rcv_settle_mode = attach.rcv_settle_mode;
  sender.set_source({ address: attach.source.address });
  sender.set_target({ address: attach.target.address });
  (connection.replies = connection.replies || {})[attach.target.address] = sender;
});

// A client wants to send: to $cbs, or to a hub.
container.on('receiver_open', ({ receiver, connection }) => {
  const attach = receiver.remote.attach;
  const address = attach.target && attach.target.address;
  const hub = hubs.get(hubOf(address));
  receiver.local.attach.snd_settle_mode = attach.snd_settle_mode;
  receiver.local.attach.rcv_settle_mode = attach.rcv_settle_mode;
  receiver.hub = address === '$cbs' ? null : hub;
  if (address !== '$cbs') {
    if (!hub) return receiver.close({ condition: 'amqp:not-found', description: `The messaging entity '${address}' could not be found. TrackingId:def_G2` });
    const claims = (connection.granted && connection.granted.get(hubOf(address))) || [];
    if (!claims.includes('Send')) return receiver.close({ condition: 'amqp:unauthorized-access', description: `Unauthorized access. 'Send' claim(s) are required. TrackingId:def_G3` });
    if (hub.disabled) return receiver.close({ condition: 'com.microsoft:entity-disabled', description: 'disabled' });
    hub.links++;
    if (hub.max > 0) receiver.local.attach.max_message_size = hub.max;
  }
  receiver.set_target({ address });
  receiver.set_source(attach.source || {});
  receiver.add_credit(address === '$cbs' ? 100 : 300);
});

const list = (x) => (Array.isArray(x) ? x : [x]);

// Stores what a message holds; returns why it is refused, or null.
function store(hub, message, format) {
  const outer = Buffer.isBuffer(message) ? rhea.message.decode(message) : message;
  const key = outer.message_annotations && outer.message_annotations['x-opt-partition-key'];
  if (key !== undefined && String(key).length > longestKey) return { condition: 'com.microsoft:argument-error', description: 'partition key is too long' };
  if (hub.discards) {
    hub.count++;
    return null;
  }
  const events = format === batchFormat ? list(outer.body.content).map((b) => rhea.message.decode(b)) : [outer];
  const hash = crypto.createHash('sha1').update(String(key)).digest().readUInt32BE(0);
  const partition = hash % hub.partitions.length;
  const stored = events.map((e, i) => ({
    partition, offset: hub.partitions[partition].length + i, key, events: events.length,
    id: e.message_id, type: e.content_type, properties: e.application_properties,
    body: Buffer.concat(list(e.body.content)).toString('base64'),
  }));
  if (log !== null) fs.writeSync(log, stored.map((e) => JSON.stringify({ hub: hub.name, ...e }) + '\n').join(''));
  hub.partitions[partition].push(...stored);
  return null;
}

// Gives a hub what it held when the process ended before.
function recover(hub) {
  if (log === null) return;
  for (const line of fs.readFileSync(process.argv[3], 'utf8').split('\n').filter(Boolean)) {
    const { hub: name, ...e } = JSON.parse(line);
    if (name === hub.name) hub.partitions[e.partition].push(e);
  }
}

// Rejects a message, in a frame of its own: the library would give a message that
// is answered in the same turn the outcome of the one before.
const reject = (delivery, error) => setImmediate(() => delivery.reject(error));

// Does what the hub is to do wrong to this transfer; returns whether that is all.
function fail(hub, context) {
  const fault = hub.fault;
  if (!fault || fault.after-- > 0) return false;
  if (fault.times-- <= 0) {
    hub.fault = null;
    return false;
  }
  const error = { condition: fault.condition, description: fault.description };
  switch (fault.kind) {
    case 'reject':
      reject(context.delivery, error);
      return true;
    case 'detach':
      context.receiver.close(error);
      return true;
    case 'close':
      context.connection.close(error);
      return true;
    case 'cut':
      context.connection.socket.destroy();
      return true;
    case 'lose': // stored, and nobody hears of it
      store(hub, context.message, context.delivery.format);
      context.connection.socket.destroy();
      return true;
    case 'silent':
      return true;
    case 'die':
      process.kill(process.pid, 'SIGKILL');
      return true;
  }
  throw new Error(`no fault ${fault.kind}`);
}

container.on('message', (context) => {
  const hub = context.receiver.hub;
  if (hub === null) {
    context.delivery.accept();
    return authorise(context, context.message);
  }
  if (!hub || context.receiver.is_closed()) return;
  context.receiver.add_credit(1);
  hub.transfers++;
  hub.flying++;
  hub.most = Math.max(hub.most, hub.flying);
  const answer = () => {
    hub.flying--;
    if (fail(hub, context)) return;
    const refused = store(hub, context.message, context.delivery.format);
    if (refused) reject(context.delivery, refused);
    else context.delivery.accept();
  };
  hub.waiting.push(answer);
  if (hub.waiting.length < hub.hold) return;
  hub.hold = 0;
  for (const each of hub.waiting.splice(0)) each();
});

container.on('connection_open', ({ connection }) => connections.add(connection));
for (const end of ['connection_close', 'disconnected']) container.on(end, ({ connection }) => connections.delete(connection));
// A client that goes away in the middle of something is no error of ours.
for (const quiet of ['connection_error', 'session_error', 'receiver_error', 'sender_error', 'protocol_error', 'error']) container.on(quiet, () => {});

const options = { host: '127.0.0.1', port: 0, tcp_no_delay: true, sender_options: { autosettle: true }, receiver_options: { autoaccept: false, credit_window: 0 } };

function listen(extra) {
  const server = container.listen({ ...options, ...extra });
  return new Promise((done) => server.on('listening', () => done(server.address().port)));
}

function listenWebSocket() {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, path: '/$servicebus/websocket', handleProtocols: (asked) => (asked.has('amqp') ? 'amqp' : false) });
  server.on('connection', (socket) => container.websocket_accept(socket, { sender_options: options.sender_options, receiver_options: options.receiver_options }));
  return new Promise((done) => server.on('listening', () => done(server.address().port)));
}

// Detaches every link of a hub; the next ones need a token again.
function detach(hub, name, condition) {
  for (const connection of connections) {
    if (connection.granted) connection.granted.delete(name);
    connection.each_link((link) => { if (link.hub === hub) link.close({ condition, description: 'detached' }); });
  }
}

const fresh = () => ({ count: 0, transfers: 0, claims: 0, links: 0, flying: 0, most: 0, fault: null, refuse: 0, disabled: false, hold: 0, waiting: [], tokens: [] });

const commands = {
  listen: async () => ({ plain: await listen({ port: Number(process.argv[2]) }), websocket: await listenWebSocket() }),
  tls: async ({ certificate, key }) => ({ port: await listen({ transport: 'tls', cert: fs.readFileSync(certificate), key: fs.readFileSync(key) }) }),
  policies: ({ keys }) => { policies = keys; },
  hub: ({ name, partitions, max, discards }) => {
    hubs.set(name, { ...fresh(), name, max, discards, partitions: Array.from({ length: partitions }, () => []) });
    recover(hubs.get(name));
  },
  set: ({ hub, ...what }) => { Object.assign(hubs.get(hub), what); },
  remove: ({ hub }) => {
    const gone = hubs.get(hub);
    hubs.delete(hub);
    detach(gone, hub, 'amqp:not-found');
  },
  stored: ({ hub }) => ({ events: hubs.get(hub).partitions.flat() }),
  counts: ({ hub }) => {
    const { transfers, claims, links, most, fault } = hubs.get(hub);
    return { transfers, claims, links, most, connections: connections.size, faulty: fault !== null && fault.times > 0 };
  },
  detach: ({ hub, condition }) => detach(hubs.get(hub), hub, condition),
};

const input = readline.createInterface({ input: process.stdin });
input.on('line', async (line) => {
  let answer;
  try {
    const { do: name, ...rest } = JSON.parse(line);
    answer = (await commands[name](rest)) || {};
  } catch (e) {
    answer = { error: String(e && e.stack) };
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
});
input.on('close', () => process.exit(0));
