// node-postgres as its users use it. Arguments: host, port, user, password, file of the CA, number of servers.
const assert = require('assert');
const fs = require('fs');
const { Client, Pool } = require('pg');

const [host, port, user, password, ca, servers] = process.argv.slice(2);
const base = { host, port: Number(port), user, password, database: 'app' };

async function connected(more) {
  const client = new Client({ ...base, ...more });
  await client.connect();
  return client;
}

async function one(client, ...query) {
  return Object.values((await client.query(...query)).rows[0])[0];
}

async function logins() {
  const ssl = { ca: fs.readFileSync(ca, 'utf8') };
  for (const options of [{}, { ssl }, { ssl, enableChannelBinding: true }]) {
    const client = await connected(options);
    assert.equal(await one(client, 'SELECT current_user::text'), user);
    await client.end();
  }
  await assert.rejects(connected({ password: 'wrong' }), { code: '28P01' });
}

async function named() {
  const [a, b] = [await connected(), await connected()];
  for (let i = 0; i < 20; i++) {
    const ofA = { name: 'same', text: 'SELECT $1::int + 1 AS n', values: [i] };
    const ofB = { name: 'same', text: "SELECT $1::text || 'b' AS t", values: [String(i)] };
    const found = await Promise.all([a.query(ofA), b.query(ofB)]);
    assert.deepEqual(found.map((result) => result.rows[0]), [{ n: i + 1 }, { t: `${i}b` }]);
  }
  await assert.rejects(a.query({ name: 'bad', text: 'SELECT $1::int', values: ['x'] }), {
    code: '22P02',
  });
  assert.equal(await one(a, 'SELECT $1::int AS n', [7]), 7);
  await Promise.all([a.end(), b.end()]);
}

async function session() {
  const client = await connected({ application_name: 'node', statement_timeout: 12345 });
  const other = await connected();
  await client.query("SET search_path = 'pg_catalog'");
  for (let i = 0; i < 5; i++) {
    assert.equal(await one(client, 'SHOW application_name'), 'node');
    assert.equal(await one(client, 'SHOW statement_timeout'), '12345ms');
    assert.equal(await one(client, 'SHOW search_path'), 'pg_catalog');
    assert.equal(await one(other, 'SHOW search_path'), '"$user", public');
  }
  await client.query('BEGIN');
  await assert.rejects(client.query('SELECT 1/0'), { code: '22012' });
  await assert.rejects(client.query('SELECT 1'), { code: '25P02' });
  await client.query('ROLLBACK');
  const several = await client.query('SELECT 1 AS a; SELECT 2 AS b');
  assert.deepEqual(several.map((result) => result.rows[0]), [{ a: 1 }, { b: 2 }]);
  await Promise.all([client.end(), other.end()]);
}

async function notifications() {
  if (servers === '1') return; // a listener would keep the only server
  const [listener, sender] = [await connected(), await connected()];
  const heard = [];
  const all = new Promise((resolve) => {
    listener.on('notification', (note) => {
      assert.equal(note.processId, sender.processID);
      if (heard.push(note.payload) === 5) resolve();
    });
  });
  await listener.query('LISTEN node');
  for (let i = 0; i < 5; i++) await sender.query('SELECT pg_notify($1, $2)', ['node', String(i)]);
  await all;
  assert.deepEqual(heard, ['0', '1', '2', '3', '4']);
  await Promise.all([listener.end(), sender.end()]);
}

async function cancels() {
  const client = await connected();
  const query = new (require('pg').Query)('SELECT pg_sleep(60)');
  const failed = new Promise((resolve) => query.on('error', resolve));
  client.query(query);
  setTimeout(() => new Client(base).cancel(client, query), 300);
  assert.equal((await failed).code, '57014');
  assert.equal(await one(client, 'SELECT 1 AS n'), 1);
  await client.end();
}

async function pool() {
  const pool = new Pool({ ...base, max: 10 });
  const asked = Array.from({ length: 200 }, (_, i) => one(pool, 'SELECT $1::int AS n', [i]));
  assert.deepEqual(await Promise.all(asked), Array.from({ length: 200 }, (_, i) => i));
  await pool.end();
}

(async () => {
  for (const part of [logins, named, session, notifications, cancels, pool]) await part();
  console.log('ok');
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
