'use strict';
// The console. It asks /api/v1/pipeline once a second and draws; all that comes from outside enters the page as text, never as markup.

// --- drawing: h() makes elements, patch() brings the page to them without losing focus, open details, or what was typed ---------------

const SVG = 'http://www.w3.org/2000/svg';
const NAMES_OF_SVG = new Set(['svg', 'path', 'polyline', 'title']);

function h(name, attributes, ...children) {
  const element = NAMES_OF_SVG.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value !== undefined && value !== null && value !== false) element.setAttribute(key, value === true ? '' : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== undefined && child !== null && child !== false) element.append(child);
  }
  return element;
}

function patch(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) return old.replaceWith(fresh);
  if (old.nodeType === Node.TEXT_NODE) { if (old.data !== fresh.data) old.data = fresh.data; return }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== 'open') old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (name !== 'open' && old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (old.hasAttribute('data-keep')) return; // what stands in it is the user's
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  after.forEach((child, at) => before[at] ? patch(before[at], child) : old.append(child));
  before.slice(after.length).forEach(child => child.remove());
}

const show = (...children) => patch(document.getElementById('main'), h('main', { id: 'main', tabindex: '-1' }, ...children));

// --- words and numbers -----------------------------------------------------------------------------------------------------------------

const number = value => value === null || value === undefined ? '–' : value.toLocaleString('en', { maximumFractionDigits: value < 100 ? 1 : 0 });
const ms = value => value === null || value === undefined ? '–' : value < 1000 ? `${number(value)} ms` : `${number(value / 1000)} s`;
const bytes = value => {
  if (value === null || value === undefined) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit++) value /= 1024;
  return `${number(value)} ${units[unit]}`;
};
const duration = seconds => {
  if (!Number.isFinite(seconds)) return '–';
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
};
const utc = text => Date.parse(`${text.replace(' ', 'T')}Z`);
const time_us = us => new Date(us / 1000).toISOString().replace('T', ' ').replace('Z', '');
const sum = numbers => numbers.reduce((all, one) => all + (one ?? 0), 0);
const worst = numbers => { const found = numbers.filter(one => one !== null && one !== undefined); return found.length ? Math.max(...found) : null };

// --- what is asked ---------------------------------------------------------------------------------------------------------------------

let pipeline = null;        // the last answer of /api/v1/pipeline
let trouble = null;         // why there is none
const history = { rows: [], p99: [] };
const HISTORY_MAX = 120;

const token = () => document.getElementById('token').value; // held nowhere but in the field

async function ask(path, options = {}) {
  const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
  const answer = await fetch(path, { ...options, headers: { ...headers, ...(options.body ? { 'Content-Type': 'application/json' } : {}) } });
  const body = (answer.headers.get('content-type') ?? '').includes('json') ? await answer.json() : await answer.text();
  if (!answer.ok) throw new Error(body.detail ? `${body.title}: ${body.detail}` : `HTTP ${answer.status}`);
  return body;
}

async function look() {
  try {
    pipeline = await ask('api/v1/pipeline');
    trouble = null;
    if (place()[0] === 'control' && pipeline.here.service === 'pg-sinker') await look_at_sink();
    const stages = stages_of(pipeline), last = stages.filter(stage => stage.place.sink);
    push(history.rows, sum(stages.filter(stage => stage.place.source).map(stage => rate_of(stage, 'records_out'))));
    push(history.p99, worst(last.map(stage => latency_of(stage, 'since_commit')?.p99_ms)) ?? 0);
  } catch (error) { trouble = error.message }
  draw();
}

function push(list, value) { list.push(value); if (list.length > HISTORY_MAX) list.shift() }

// --- the pipeline as stages: instances of one service that share an input are one ------------------------------------------------------

function stages_of({ instances }) {
  const stages = new Map();
  for (const found of instances) {
    const place = found.told.topology ?? {};
    const key = `${found.service} ${place.input ?? ''}`;
    if (!stages.has(key)) stages.set(key, { service: found.service, place, all: [] });
    stages.get(key).all.push(found);
  }
  const list = [...stages.values()];
  for (const stage of list) {
    stage.live = stage.all.filter(found => !found.gone);
    stage.name = list.filter(other => other.service === stage.service).length > 1 && stage.place.input ? `${stage.service} · ${stage.place.input}` : stage.service;
  }
  const depth = (stage, seen = []) => {
    if (seen.includes(stage)) return 0;
    const needs = [stage.place.input, ...(stage.place.beside ?? [])].filter(Boolean);
    const writers = list.filter(other => (other.place.outputs ?? []).some(topic => needs.includes(topic)));
    return writers.length ? 1 + Math.max(...writers.map(writer => depth(writer, [...seen, stage]))) : stage.place.source ? 0 : 1;
  };
  for (const stage of list) stage.depth = depth(stage);
  return list.sort((a, b) => a.depth - b.depth || a.name.localeCompare(b.name));
}

const figures = found => found.told.figures ?? {};
const details = found => found.told.state?.details ?? {};
const rate_of = (stage, way, table) => sum(stage.live.flatMap(found => figures(found)[way] ?? []).filter(flow => !table || flow.table === table).map(flow => flow.per_second));
const latency_of = (stage, which) => {
  const found = stage.live.map(instance => figures(instance)[which]).filter(Boolean);
  if (!found.length) return null;
  return { p50_ms: worst(found.map(one => one.p50_ms)), p95_ms: worst(found.map(one => one.p95_ms)), p99_ms: worst(found.map(one => one.p99_ms)) };
};
// A standby of cdc-ingest waits for nothing but the slot, and is well.
const is_standby = found => !found.told.state?.ready && (found.told.state?.waiting_for ?? []).some(what => what.includes('slot')) && found.service === 'cdc-ingest';
const standing = found => found.gone ? ['bad', `gone for ${duration(found.age_ms / 1000)}`]
  : found.told.state?.ready ? ['', 'ready'] : is_standby(found) ? ['', `standby: ${found.told.state.waiting_for.join('; ')}`]
  : ['warn', `waits for ${(found.told.state?.waiting_for ?? []).join('; ')}`];
function standing_of(stage) {
  if (!stage.live.length) return 'bad';
  return stage.live.some(found => found.told.state?.ready) && !stage.live.some(found => standing(found)[0]) ? (stage.all.length > stage.live.length ? 'warn' : '') : 'warn';
}

// --- view: pipeline --------------------------------------------------------------------------------------------------------------------

function tile(name, value, remark, kind, line) {
  return h('div', { class: `tile ${kind ?? ''}` }, h('dt', {}, name), h('dd', {}, value, remark && h('div', { class: 'small' }, remark)), line && sparkline(line, name));
}

function sparkline(values, name) {
  const most = Math.max(...values, 1e-9), step = 100 / (HISTORY_MAX - 1);
  const points = values.map((value, at) => `${(at * step).toFixed(1)},${(21 - value / most * 19).toFixed(1)}`).join(' ');
  return h('svg', { viewBox: '0 0 100 22', preserveAspectRatio: 'none', role: 'img', 'aria-label': `${name}, the last two minutes` }, h('polyline', { points }));
}

function tiles(stages) {
  const live = stages.flatMap(stage => stage.live);
  const last = stages.filter(stage => stage.place.sink);
  const end = last.map(stage => latency_of(stage, 'since_commit')).find(Boolean);
  const lag = sum(live.map(found => figures(found).lag_records)), letters = sum(live.map(found => figures(found).rejected_total));
  const missing = sum(live.flatMap(found => Object.values(details(found).join?.dimensions ?? {})).map(dimension => dimension.missing));
  const slots = live.map(found => details(found).slot).filter(Boolean);
  const minutes = slots.map(slot => slot.minutes_left).filter(left => left !== null && left !== undefined);
  const ended = live.flatMap(found => found.told.state?.restarts ?? []).filter(one => pipeline.now_ms - utc(one.at) < 600_000);
  const waits = ended.filter(one => one.waited).length, restarts = ended.length - waits;
  const most_waiting = worst(live.map(found => figures(found).waiting_percent)) ?? 0;
  return h('dl', { class: 'tiles' },
    tile('Changes a second', number(history.rows.at(-1) ?? 0), 'captured from the source', '', history.rows),
    tile('Commit to sink, p99', ms(end?.p99_ms), `p50 ${ms(end?.p50_ms)} · p95 ${ms(end?.p95_ms)}`, '', history.p99),
    tile('Lag', number(lag), 'records not handled yet'),
    tile('Back-pressure', `${number(most_waiting)} %`, 'of the time spent waiting, the slowest stage', most_waiting > 50 ? 'warn' : ''),
    tile('Slot', minutes.length ? `${number(Math.min(...minutes))} min` : slots.length ? 'safe' : '–', slots.map(slot => `${bytes(slot.retained_wal_bytes)} of WAL kept`).join(', '), minutes.some(left => left < 60) ? 'bad' : ''),
    tile('Missing rows', number(missing), 'that facts name and nobody knows', missing ? 'warn' : ''),
    tile('Dead letters', number(letters), 'since the services started', letters ? 'warn' : ''),
    tile('Restarts', number(restarts), `of chains, in the last ten minutes${waits ? `; ${waits} starts waited` : ''}`));
}

function stage_card(stage, at) {
  const stage_latency = latency_of(stage, 'in_stage'), since = latency_of(stage, 'since_commit');
  const three = latency => latency ? `${number(latency.p50_ms)} · ${number(latency.p95_ms)} · ${number(latency.p99_ms)}` : '–';
  const letters = sum(stage.live.map(found => figures(found).rejected_total)), gone = stage.all.length - stage.live.length;
  const row = (name, value) => [h('dt', {}, name), h('dd', {}, value)];
  return h('section', { class: `stage ${standing_of(stage)}`, 'data-node': `stage-${at}`, 'aria-label': stage.name },
    h('h3', {}, h('span', { class: `dot ${standing_of(stage)}`, 'aria-hidden': 'true' }), stage.name),
    h('dl', {},
      row('in / s', number(rate_of(stage, 'records_in'))), row('out / s', number(rate_of(stage, 'records_out'))),
      row('here, ms', three(stage_latency)), row('since commit', three(since)),
      row('lag', number(sum(stage.live.map(found => figures(found).lag_records)))),
      row('waiting', `${number(worst(stage.live.map(found => figures(found).waiting_percent)))} %`),
      letters ? row('dead letters', number(letters)) : [],
      row('instances', `${stage.live.length}${gone ? `, ${gone} gone` : ''}`)));
}

function topology(stages) {
  const columns = [], edges = [], nodes = new Map();
  const column = at => columns[at] ??= [];
  const topic = (name, depth, writer) => {
    const lag = sum(stages.flatMap(stage => stage.live).flatMap(found => figures(found).lag ?? []).filter(lag => lag.topic === name).map(lag => lag.records));
    const rate = sum(stages.map(stage => rate_of(stage, 'records_out', name)));
    if (!nodes.has(name)) {
      nodes.set(name, `topic-${nodes.size}`);
      column(2 + 2 * depth).push(h('div', { class: 'topic', 'data-node': nodes.get(name) }, h('a', { href: `#/topics?topic=${encodeURIComponent(name)}` }, name.split(/(?<=_)/).map(part => [part, h('wbr')])), h('br'), `${number(rate)} / s`, lag ? ` · ${number(lag)} behind` : ''));
    }
    if (writer !== undefined) edges.push([writer, nodes.get(name), rate > 0]);
    return [nodes.get(name), rate > 0];
  };
  stages.forEach((stage, at) => {
    const { place, depth } = stage, node = `stage-${at}`;
    column(1 + 2 * depth).push(stage_card(stage, at));
    const base = (text, column_at, name) => {
      if (!nodes.has(text)) { nodes.set(text, name); column(column_at).push(h('div', { class: 'base', 'data-node': name, title: text }, text.split('/').pop())) }
      return nodes.get(text);
    };
    if (place.source) edges.push([base(place.source, 2 * depth, `source-${at}`), node, rate_of(stage, 'records_in') > 0]);
    if (place.sink) edges.push([node, base(place.sink, 2 + 2 * depth, `sink-${at}`), rate_of(stage, 'records_out') > 0]);
    // Topics that nobody reads (of other tables) would crowd the picture.
    const is_read = name => stages.some(other => other.place.input === name || (other.place.beside ?? []).includes(name));
    for (const name of (place.outputs ?? []).filter(is_read)) topic(name, depth, node);
  });
  stages.forEach((stage, at) => {
    for (const name of [stage.place.input, ...(stage.place.beside ?? [])].filter(Boolean)) {
      const [from, is_live] = topic(name, Math.max(0, stage.depth - 1));
      edges.push([from, `stage-${at}`, is_live]);
    }
  });
  const lines = edges.map(([from, to, is_live]) => h('path', { 'data-from': from, 'data-to': to, class: is_live ? 'live' : '', d: 'M0 0' }));
  return h('div', { class: 'flow', id: 'flow', role: 'group', 'aria-label': 'Topology' }, h('svg', { 'aria-hidden': 'true' }, lines), [...columns].map(nodes => nodes && h('div', { class: 'column' }, nodes)));
}

// The lines run between the boxes as the browser has placed them.
function draw_lines() {
  const flow = document.getElementById('flow');
  if (!flow) return;
  const origin = flow.getBoundingClientRect();
  for (const line of flow.querySelectorAll('path')) {
    const from = flow.querySelector(`[data-node="${line.dataset.from}"]`)?.getBoundingClientRect(), to = flow.querySelector(`[data-node="${line.dataset.to}"]`)?.getBoundingClientRect();
    if (!from || !to) continue;
    const [x1, y1, x2, y2] = [from.right - origin.left, from.top + from.height / 2 - origin.top, to.left - origin.left, to.top + to.height / 2 - origin.top];
    const bend = Math.max(12, (x2 - x1) / 2);
    line.setAttribute('d', `M${x1} ${y1} C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`);
  }
}

function table(heads, rows, label) {
  const cell = (value, at) => heads[at]?.[1] === 'number' ? h('td', { class: 'number' }, value) : h('td', { class: heads[at]?.[1] }, value);
  return h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': label },
    h('table', {}, h('thead', {}, h('tr', {}, heads.map(([name, kind]) => h('th', { scope: 'col', class: kind === 'number' ? 'number' : '' }, name)))),
      h('tbody', {}, rows.map(row => h('tr', {}, row.map(cell))))));
}

const when_any = (rows, ...rest) => rows.length ? rest : [];

function instances_table(stages) {
  const N = 'number';
  const rows = stages.flatMap(stage => stage.all).map(found => {
    const [kind, words] = standing(found), state = found.told.state ?? {}, figure = figures(found);
    const three = latency => latency ? `${number(latency.p50_ms)} / ${number(latency.p95_ms)} / ${number(latency.p99_ms)}` : '–';
    const is_here = found.service === pipeline.here.service && found.instance === pipeline.here.instance && found.port === pipeline.here.port;
    const link = words => h('a', { href: safe_url(found.told.url) }, words), shares = behind_one_door(found);
    return [
      [h('span', { class: `dot ${kind}`, 'aria-hidden': 'true' }), shares ? link(found.service) : found.service], is_here ? [found.instance, ' (this page)'] : shares ? found.instance : link(found.instance), words, state.version ?? '–',
      state.started_at ? duration((pipeline.now_ms - utc(state.started_at)) / 1000) : '–', number(sum((figure.records_in ?? []).map(flow => flow.per_second))), number(sum((figure.records_out ?? []).map(flow => flow.per_second))),
      three(figure.in_stage), three(figure.since_commit), number(figure.lag_records), `${number(figure.waiting_percent)} %`, number(state.generation?.number),
    ];
  });
  return table([['Service'], ['Instance'], ['State', 'wide'], ['Version'], ['Up'], ['In / s', N], ['Out / s', N], ['Here, ms: p50 / p95 / p99', N], ['Since commit, ms', N], ['Lag', N], ['Waiting', N], ['Chains', N]], rows, 'Instances');
}

// An address that several tell is that of a door before them: it leads to their service, and to none of them in particular.
const behind_one_door = found => pipeline.instances.filter(other => !other.gone && other.told.url === found.told.url).length > 1;

// An address told by an instance becomes a link only if it is one of a web page.
const safe_url = url => /^https?:\/\//.test(url ?? '') ? url : '#';

function details_of(stages) {
  const live = stages.flatMap(stage => stage.live), N = 'number';
  const lags = live.filter(found => figures(found).lag?.length).map(found => {
    const lag = figures(found).lag;
    return [lag[0].topic, found.instance, number(figures(found).lag_records), lag.map(one => `${one.partition}: ${number(one.records)}`).join(' · ')];
  });
  const copies = live.flatMap(found => Object.entries(details(found).snapshot ?? {}));
  const slots = live.map(found => details(found).slot).filter(Boolean);
  const dimensions = live.flatMap(found => Object.entries(details(found).join?.dimensions ?? {}).map(([name, told]) => [name, number(told.rows), bytes(told.bytes), told.missing && !behind_one_door(found) ? h('a', { href: `${safe_url(found.told.url)}/api/v1/missing` }, number(told.missing)) : number(told.missing), told.missing ? duration(told.oldest_missing_s) : '–', found.instance]));
  const letters = live.flatMap(found => Object.entries(figures(found).rejected ?? {}).map(([reason, count]) => [found.service, reason, number(count), (found.told.topology.dead_letters ?? []).map(name => h('a', { href: `#/topics?topic=${encodeURIComponent(name)}` }, name))]));
  const restarts = stages.flatMap(stage => stage.all).flatMap(found => (found.told.state?.restarts ?? []).map(one => [one.at, found.instance, one.waited ? 'waited' : one.kind, one.why])).sort((a, b) => b[0].localeCompare(a[0]));
  const copy = ([name, told]) => [name, told.topic, h('progress', { max: '100', value: `${told.percent}`, 'aria-label': `copy of ${name}` }), `${told.percent} %`, number(told.rows), told.rows_a_second === undefined ? '–' : number(told.rows_a_second), told.seconds_left === undefined ? '–' : duration(told.seconds_left), told.stopped ? `stopped: ${told.stopped}` : told.paused ? 'paused' : told.done ? 'done' : 'copying'];
  const section = (title, ...content) => h('section', {}, h('h2', {}, title), ...content);
  // Every instance of pg-sinker tells the same of these.
  const jobs = live.map(found => details(found).backfills).find(list => list?.length) ?? [], compared = Object.entries(live.map(found => details(found).reconciliation).find(Boolean) ?? {});
  return [h('div', { class: 'columns' },
    section('Lag by partition', lags.length ? table([['Topic'], ['Read by'], ['Records', N], ['Partition: records', 'wide']], lags, 'Lag by partition') : h('p', { class: 'soft' }, 'No instance owns a partition.')),
    section('Copies of tables', copies.length ? table([['Table'], ['Topic'], [''], ['', N], ['Rows', N], ['Rows / s', N], ['Left'], ['', 'wide']], copies.map(copy), 'Copies of tables') : h('p', { class: 'soft' }, 'No cdc-ingest tells of any.')),
    when_any(slots, section('Replication slot', slots.map(slot => table([['', ''], ['', 'wide']], [
      ['name', `${slot.name}, publication ${slot.publication}`], ['WAL status', `${slot.wal_status ?? '–'}`], ['not confirmed', `${bytes(slot.lag_bytes)}, ${number(slot.lag_seconds)} s`], ['kept by the source', bytes(slot.retained_wal_bytes)],
      ['until it is in danger', slot.safe_wal_bytes === null ? 'the source sets no bound (max_slot_wal_keep_size)' : `${bytes(slot.safe_wal_bytes)}${slot.minutes_left === null ? '' : `, ${number(slot.minutes_left)} min at this rate`}`], ['WAL a minute', bytes(slot.wal_bytes_a_minute)], ['position', `${slot.confirmed_lsn} of ${slot.server_lsn}`],
    ], 'Replication slot')))),
    when_any(dimensions, section('Dimensions', table([['Name'], ['Rows', N], ['Memory', N], ['Missing', N], ['Oldest missing'], ['Instance']], dimensions, 'Dimensions'))),
    when_any(compared, section('Compared with the source', comparisons_table(compared))),
    when_any(jobs, section('Records that are read again', jobs_table(jobs))),
    section('Dead letters', letters.length ? table([['Service'], ['Reason'], ['Count', N], ['Topic']], letters, 'Dead letters') : h('p', { class: 'soft' }, 'None since the services started.'))),
  section('Restarts', restarts.length ? table([['When, UTC'], ['Instance'], ['Kind'], ['Reason', 'wide']], restarts, 'Restarts') : h('p', { class: 'soft' }, 'No chain has been restarted since the services started.'))];
}

// --- what pg-sinker tells of its tables ------------------------------------------------------------------------------------------------

const JOB_KINDS = { new: 'table is new to its topic', replay: 'read again', rebuild: 'built anew' };
const JOB_STATES = { open: 'open', done: 'done', stopped: 'stopped', failed: 'failed' };

function jobs_table(jobs, commands) {
  const row = job => {
    const percent = job.state === 'done' ? 100 : job.offsets ? Math.floor((job.offsets - job.offsets_remaining) / job.offsets * 100) : 0;
    return [job.table, JOB_KINDS[job.kind] ?? job.kind, `${JOB_STATES[job.state] ?? job.state}${job.state === 'done' ? '' : `, step ${job.step}`}${job.failure ? `: ${job.failure}` : ''}`,
      h('progress', { max: '100', value: `${percent}`, 'aria-label': `${job.table}, job ${job.id}` }), `${percent} %`, number(job.records), number(job.rows), job.begun_at, ...(commands ? [commands(job)] : [])];
  };
  return table([['Table'], ['Why'], ['State', 'wide'], [''], ['', 'number'], ['Records', 'number'], ['Rows', 'number'], ['Begun, UTC'], ...(commands ? [['Commands', 'wide']] : [])], jobs.map(row), 'Records that are read again');
}

function comparisons_table(pairs, commands) {
  const row = ([name, last]) => {
    const age = last.compared_at ? duration(Math.max(0, pipeline.now_ms - utc(last.compared_at)) / 1000) : 'never', counts = last.counts ?? {};
    const [kind, words] = last.failure ? ['bad', last.failure] : !last.compared_at ? ['warn', 'not compared yet'] : counts.differ ? ['bad', 'differs'] : counts.rejected ? ['warn', 'short of rejected rows'] : ['', 'equal'];
    return [name, [h('span', { class: `dot ${kind}`, 'aria-hidden': 'true' }), words], age, number(counts.compared), number(counts.differ), number(counts.rejected), number(counts.changing), ...(commands ? [commands(name, last)] : [])];
  };
  const N = 'number';
  return table([['Pair'], ['Verdict', 'wide'], ['Age'], ['Rows', N], ['Differ', N], ['Rejected', N], ['Changing', N], ...(commands ? [['Commands', 'wide']] : [])], pairs.map(row), 'Compared with the source');
}

function view_pipeline() {
  const stages = stages_of(pipeline);
  show(pipeline.trouble && h('p', { class: 'note' }, `The others may be missing or look old: ${pipeline.trouble}`),
    tiles(stages), h('h2', {}, 'Topology'), topology(stages), h('p', { class: 'soft small' }, 'Latencies are p50 · p95 · p99 in milliseconds: in the stage, and since the commit at the source; where a stage has several instances, those of the slowest.'),
    h('h2', {}, 'Instances'), instances_table(stages), details_of(stages));
  draw_lines();
}

// --- records ---------------------------------------------------------------------------------------------------------------------------

const text_of = value => value === null || value === undefined ? null : value.text ?? `0x${value.hex}`;
const pretty = text => { try { JSON.parse(text) } catch { return text } return indent(text) };

// JSON with line breaks, its numbers as they came: JSON.parse would make floats of them.
function indent(text) {
  let out = '', depth = 0, in_string = false;
  for (let at = 0; at < text.length; at++) {
    const letter = text[at];
    if (in_string) { out += letter; if (letter === '\\') out += text[++at]; else if (letter === '"') in_string = false; continue }
    if (/\s/.test(letter)) continue;
    if (letter === '"') in_string = true;
    if (letter === '}' || letter === ']') { depth--; out += `\n${'  '.repeat(depth)}` }
    out += letter;
    if (letter === '{' || letter === '[') { depth++; out += `\n${'  '.repeat(depth)}` }
    if (letter === ',') out += `\n${'  '.repeat(depth)}`;
    if (letter === ':') out += ' ';
  }
  return out.replace(/([{[])\s+([}\]])/g, '$1$2');
}

const OPERATIONS = { r: 'copied', c: 'inserted', u: 'updated', d: 'deleted' };

function record(found, is_open) {
  const header = found.headers.find(one => one.name === 'tidemill'), told = Object.fromEntries((text_of(header?.value) ?? '').split(' ').map(field => field.split('=')));
  const value = text_of(found.value), since = told.ts && found.at ? utc(found.at) - Number(told.ts) / 1000 : null;
  return h('article', { class: 'record' },
    h('p', {}, h('strong', {}, OPERATIONS[told.op] ?? 'record'), h('span', {}, `${found.topic} ${found.partition}:${found.offset}`), h('span', {}, found.at ?? ''), told.ts && h('span', { class: 'soft' }, `commit ${time_us(Number(told.ts))}`), since !== null && h('span', { class: 'soft' }, `+${ms(Math.max(0, since))}`), told.v && h('span', { class: 'soft' }, `version ${told.v}`)),
    h('p', {}, 'key ', h('code', {}, text_of(found.key) ?? 'none')),
    found.headers.map(one => h('p', { class: 'small soft' }, `header ${one.name}: `, h('code', {}, text_of(one.value) ?? 'null'))),
    value === null ? h('p', { class: 'soft' }, 'no value: the row is gone') : h('details', { open: is_open }, h('summary', { class: 'small' }, `value, ${bytes(found.bytes)}: `, h('span', { class: 'soft' }, value.length > 100 ? `${value.slice(0, 100)}…` : value)), h('pre', { tabindex: '0' }, pretty(value))));
}

const failed = error => h('p', { class: 'note bad', role: 'alert' }, error);

// --- view: follow an order -------------------------------------------------------------------------------------------------------------

const followed = { asked: null, answer: null, error: null, rows: null, rows_error: null, busy: false };

function view_follow(query) {
  const asked = query.get('id') ?? query.get('key');
  if (asked !== null && asked !== followed.asked) { followed.asked = asked; follow(query) }
  show(h('h2', {}, 'Follow an order'), h('p', { class: 'soft' }, 'Its record in every topic on the way to the sink, with times and headers, its rows in the sink, and its dead letters. A whole key, such as ', h('code', {}, '{"user_id":1001}'), ', is looked for in all topics of rows.'),
    h('form', { class: 'ask card', id: 'follow-form' }, h('label', {}, 'Id, or key as JSON', h('input', { id: 'follow-id', name: 'asked', required: true, 'data-keep': true, value: asked ?? '', inputmode: 'text', autocomplete: 'off' })), h('button', { class: 'main' }, followed.busy ? 'Looking…' : 'Follow')),
    h('div', { 'aria-live': 'polite', id: 'followed' }, followed.error && failed(followed.error), followed.answer && followed_shown(followed.answer)));
}

function followed_shown(answer) {
  const layer = found => h('li', { class: found.records.length ? '' : 'none' }, h('div', { class: 'card' }, h('h3', {}, found.topic), h('p', { class: 'soft small' }, `partition ${found.partition}, key `, h('code', {}, found.key), found.older_left_out ? ` · searched from offset ${found.searched_from} on; older records were left out` : ''), found.records.length ? found.records.map(one => record(one, true)) : h('p', {}, 'not there')));
  return [
    answer.cut && h('p', { class: 'note' }, 'There was more than is shown at a time; the newest is shown.'),
    answer.layers.length ? h('ol', { class: 'way' }, answer.layers.map(layer), answer.layers.some(found => found.records.length) && sink_layers()) : h('p', { class: 'note' }, 'No topic has such a key.'),
    h('h2', {}, 'Dead letters'), answer.dead_letters.length ? h('div', { class: 'card' }, answer.dead_letters.map(one => record(one, true))) : h('p', { class: 'soft' }, 'None of this row.'),
  ];
}

// The rows of the sink: only pg-sinker has a way to it, and other pages lead to its.
function sink_layers() {
  const layer = (title, ...content) => h('li', {}, h('div', { class: 'card sunk' }, h('h3', {}, title), ...content));
  if (pipeline.here.service !== 'pg-sinker') {
    const sinker = pipeline.instances.find(found => found.service === 'pg-sinker' && !found.gone), url = safe_url(sinker?.told.url);
    return sinker && layer('The sink', h('p', {}, 'Its rows are on ', h('a', { href: url === '#' ? '#' : `${url}/${location.hash}` }, 'the page of pg-sinker'), '.'));
  }
  if (followed.rows_error) return layer('The sink', failed(followed.rows_error));
  return (followed.rows?.tables ?? []).map(found => layer(`${found.table}, in the sink`, found.problem && failed(found.problem), found.cut && h('p', { class: 'note' }, 'There are more rows than are shown at a time.'),
    found.rows.length ? found.rows.map(row => h('pre', { tabindex: '0', 'aria-label': `row of ${found.table}` }, pretty(row))) : h('p', {}, 'not there')));
}

async function follow(query) {
  Object.assign(followed, { busy: true, error: null, answer: null, rows: null, rows_error: null });
  try { followed.answer = await ask(`api/v1/follow?${query}`) } catch (error) { followed.error = error.message }
  const key = followed.answer?.layers.findLast(found => found.records.length)?.key;
  if (key && pipeline.here.service === 'pg-sinker') {
    try { followed.rows = await ask(`api/v1/rows?${new URLSearchParams({ key })}`) } catch (error) { followed.rows_error = error.message }
  }
  followed.busy = false;
  draw();
}

// --- view: topics ----------------------------------------------------------------------------------------------------------------------

const topics = { list: null, error: null, asked: null, records: null, records_error: null };

async function look_at_topics() {
  try { topics.list = await ask('api/v1/topics'); topics.error = null } catch (error) { topics.error = error.message }
  draw();
}

async function look_into(query) {
  const topic = query.get('topic'), rest = new URLSearchParams([...query].filter(([name, value]) => name !== 'topic' && value !== ''));
  topics.records = null;
  topics.records_error = null;
  try { topics.records = await ask(`api/v1/topics/${encodeURIComponent(topic)}/records?${rest}`) } catch (error) { topics.records_error = error.message }
  draw();
}

function view_topics(query) {
  if (topics.list === null && topics.error === null) { topics.error = ''; look_at_topics() }
  const chosen = query.get('topic'), key = `${query}`;
  if (chosen && topics.asked !== key) { topics.asked = key; look_into(query) }
  const list = topics.list?.topics ?? [];
  const roles = { rows: 'rows', dead_letters: 'dead letters', state: 'state' };
  const rows = list.map(found => [h('a', { href: `#/topics?topic=${encodeURIComponent(found.topic)}`, 'aria-current': found.topic === chosen && 'true' }, found.topic), roles[found.role], number(found.partitions.length), number(sum(found.partitions.map(one => one.end - one.first))), found.partitions.length ? found.partitions.map(one => `${one.partition}: ${one.first}–${one.end}`).join(' · ') : 'not there yet']);
  const field = (label, name, attributes) => h('label', {}, label, h('input', { name, 'data-keep': true, autocomplete: 'off', inputmode: 'numeric', size: '8', ...attributes }));
  show(h('h2', {}, 'Topics'), topics.error && failed(topics.error), list.length ? table([['Topic'], ['Holds'], ['Partitions', 'number'], ['Offsets', 'number'], ['From – to', 'wide']], rows, 'Topics') : h('p', { class: 'soft' }, 'Looking…'),
    chosen && [h('h2', {}, `Records of ${chosen}`),
      h('form', { class: 'ask card', id: 'records-form', 'data-topic': chosen }, field('Partition (all)', 'partition', { value: query.get('partition') ?? '' }), field('From offset (the newest)', 'from', { value: query.get('from') ?? '' }), field('How many', 'limit', { value: query.get('limit') ?? '20' }), h('button', { class: 'main' }, 'Show')),
      topics.records_error && failed(topics.records_error),
      topics.records && h('div', { class: 'card', id: 'records' }, topics.records.cut && h('p', { class: 'note' }, 'There were more bytes than are shown at a time.'), topics.records.records.length ? topics.records.records.map(one => record(one, false)) : h('p', { class: 'soft' }, 'No records there.'))]);
}

// --- view: control ---------------------------------------------------------------------------------------------------------------------

let told = null; // what came of the last command

const sink = { jobs: null, comparisons: null, tables: null };

// What only pg-sinker has. A page that is not there, or not yet, is shown as such.
async function look_at_sink() {
  const page = path => ask(path).catch(() => null);
  // A select keeps what it had when it was drawn.
  const configuration = sink.tables ? null : await page('api/v1/configuration');
  if (configuration) sink.tables = Object.values(configuration.tables).map(found => found.table);
  [sink.jobs, sink.comparisons] = await Promise.all([page('api/v1/backfills'), page('api/v1/reconciliation')]);
}

function difference(found) {
  const KINDS = { missing: 'missing in the sink', surplus: 'in the sink, and not at the source', other: `other values: ${found.columns.map(one => one.name).join(', ')}` };
  const key = Object.entries(found.key).map(([name, value]) => `${name}=${value}`).join(' '), place = found.place;
  return [key, found.healed ? 'healed' : KINDS[found.kind] ?? found.kind, place ? place.rejected ? `rejected by ${place.writer}: dead letter ${place.rejected}` : `${place.first_without} (${place.writer}): ${place.what}` : '–'];
}

function sink_control(button) {
  if (sink.tables === null) return h('p', { class: 'soft' }, 'Looking…');
  const { tables } = sink, jobs = sink.jobs?.jobs ?? [], pairs = Object.entries(sink.comparisons?.pairs ?? {});
  const field = (label, name, hint) => h('label', {}, label, h('input', { name, 'data-keep': true, autocomplete: 'off', size: '18', placeholder: hint }));
  const compare = (name, last) => h('button', { type: 'button', 'data-command': 'reconcile', 'data-pair': name, disabled: last.wanted, 'aria-label': `Compare ${name} now` }, last.wanted ? 'Asked for…' : 'Compare now');
  const found = pairs.filter(([, last]) => last.report?.differences?.length);
  return [h('h3', {}, 'Tables of the sink'), h('p', { class: 'soft' }, 'Read again: the records of its topic, never over a newer row. Built anew: beside the table, and put in its place in one transaction. Both while live rows flow.'),
    table([['Table'], ['Commands', 'wide']], tables.map(name => [name, [button('backfill', name, 'Read again'), button('rebuild', name, 'Build anew')]]), 'Tables of the sink'),
    h('h3', {}, 'A range again'), h('form', { class: 'ask card', id: 'backfill-form' }, h('label', {}, 'Table', h('select', { name: 'table', 'data-keep': true }, tables.map(name => h('option', {}, name)))),
      field('Since, UTC (the beginning)', 'since', '2025-07-11 10:00:00'), field('Until, UTC (the end)', 'until', '2025-07-11 11:00:00'), field('From key (the first)', 'from', ''), field('To key (the last)', 'to', ''), h('button', { class: 'main' }, 'Read the range again')),
    h('h3', {}, 'Records that are read again'), jobs.length ? jobs_table(jobs, job => job.state === 'open' ? button('backfill/stop', job.table, 'Stop') : []) : h('p', { class: 'soft' }, 'None so far.'),
    h('h3', {}, 'Compared with the source'), sink.comparisons?.failure && failed(sink.comparisons.failure),
    pairs.length ? [comparisons_table(pairs, compare), h('p', { class: 'soft small' }, `By itself every ${duration(sink.comparisons.interval_s)}.`)] : h('p', { class: 'soft' }, 'Nothing is compared: no reconcile.source is set, or nobody has looked yet.'),
    found.map(([name, last]) => [h('h3', {}, `Rows of ${name} that differ`), last.report.cut_short && h('p', { class: 'note' }, 'The comparison ended at reconcile.differences_max: there may be more.'), table([['Key'], ['How', 'wide'], ['Where it got lost', 'wide']], last.report.differences.map(difference), `Rows of ${name} that differ`)])];
}

async function command(name, body) {
  try {
    const answer = await ask(`api/v1/${name}`, { method: 'POST', body: JSON.stringify(body) });
    told = ['good', `${name} was taken: ${JSON.stringify(answer)}`];
  } catch (error) { told = ['bad', error.message] }
  look();
}

function view_control() {
  const here = pipeline.instances.find(found => found.service === pipeline.here.service && found.instance === pipeline.here.instance && found.port === pipeline.here.port);
  const door = found => found.told.control_url ?? found.told.url, doors = new Set(here ? [door(here)] : []);
  const others = pipeline.instances.filter(found => found !== here && !found.gone && ['cdc-ingest', 'dwd-cleaner', 'pg-sinker'].includes(found.service) && !doors.has(door(found)) && doors.add(door(found)));
  const button = (name, table, label) => h('button', { type: 'button', 'data-command': name, 'data-table': table, 'aria-label': `${label} ${table}` }, label);
  const copies = Object.entries(details(here ?? { told: {} }).snapshot ?? {}).map(([name, copy]) => [name, `${copy.percent} %`, copy.stopped ? 'stopped' : copy.paused ? 'paused' : copy.done ? 'done' : 'copying', [button('snapshot', name, 'Copy again'), !copy.done && [copy.paused ? button('snapshot/resume', name, 'Resume') : button('snapshot/pause', name, 'Pause'), button('snapshot/cancel', name, 'Cancel')]]]);
  const field = (label, name, attributes) => h('label', {}, label, h('input', { name, 'data-keep': true, autocomplete: 'off', inputmode: 'numeric', size: '10', ...attributes }));
  show(h('h2', {}, `Control of ${pipeline.here.service}, ${pipeline.here.instance}`),
    here && !here.told.takes_commands && h('p', { class: 'note' }, 'Commands are off here: no http.control_token is set.'),
    here?.told.control_url && h('p', { class: 'note' }, 'Commands are taken at another address: ', h('a', { href: safe_url(here.told.control_url) }, here.told.control_url)),
    h('div', { 'aria-live': 'polite' }, told && h('p', { class: `note ${told[0]}` }, told[1])),
    pipeline.here.service === 'cdc-ingest' ? [h('h3', {}, 'Copies of tables'), table([['Table'], ['', 'number'], ['State'], ['Commands', 'wide']], copies, 'Copies of tables'),
      h('h3', {}, 'A range of keys again'), h('form', { class: 'ask card', id: 'range-form' }, h('label', {}, 'Table', h('select', { name: 'table', 'data-keep': true }, copies.map(([name]) => h('option', {}, name)))), field('From key', 'from', { required: true }), field('To key', 'to', { required: true }), h('button', { class: 'main' }, 'Copy the range'))]
      : pipeline.here.service === 'dwd-cleaner' ? [h('h3', {}, 'Put dead letters back in'), h('p', { class: 'soft' }, 'By the rules that this instance runs with, and those of its partitions only.'), h('form', { class: 'ask card', id: 'replay-form' }, field('From offset', 'from', { required: true, value: '0' }), field('To offset (the last)', 'to', {}), field('Input partition (all)', 'partition', {}), h('button', { class: 'main' }, 'Replay'))]
      : pipeline.here.service === 'pg-sinker' ? sink_control(button)
      : h('p', { class: 'soft' }, 'This service takes no commands.'),
    others.length ? [h('h3', {}, 'Others that take commands'), h('ul', {}, others.map(found => h('li', {}, h('a', { href: safe_url(door(found)) === '#' ? '#' : `${door(found)}/#/control` }, behind_one_door(found) ? found.service : `${found.service}, ${found.instance}`))))] : []);
}

// --- view: settings --------------------------------------------------------------------------------------------------------------------

function view_settings() {
  const name = found => `${found.service} ${found.instance}`;
  const block = found => h('details', { class: 'card' }, h('summary', {}, h('strong', {}, found.service), ` ${found.instance}, version ${found.told.state?.version ?? '–'}${found.gone ? ', gone' : ''}`), h('pre', { tabindex: '0', 'aria-label': `settings of ${name(found)}` }, typeof found.told.configuration === 'string' ? found.told.configuration : JSON.stringify(found.told.configuration, null, 2)));
  show(h('h2', {}, 'Settings'), h('p', { class: 'soft' }, 'As each instance runs with them, defaults included. Secrets are *** where they are set.'), stages_of(pipeline).flatMap(stage => stage.all).map(block));
}

// --- the page --------------------------------------------------------------------------------------------------------------------------

const VIEWS = { pipeline: view_pipeline, follow: view_follow, topics: view_topics, control: view_control, settings: view_settings };

function place() {
  const [name, query] = location.hash.replace(/^#\/?/, '').split('?');
  return [name in VIEWS ? name : 'pipeline', new URLSearchParams(query ?? '')];
}

function draw() {
  const [name, query] = place();
  for (const link of document.querySelectorAll('nav a')) {
    if (link.hash === `#/${name}`) link.setAttribute('aria-current', 'page'); else link.removeAttribute('aria-current');
  }
  const status = document.getElementById('status');
  if (!pipeline) { status.textContent = trouble ? `no answer: ${trouble}` : '…'; return }
  const stages = stages_of(pipeline), ill = stages.filter(stage => standing_of(stage));
  const kind = trouble || ill.some(stage => standing_of(stage) === 'bad') ? 'bad' : ill.length ? 'warn' : '';
  const words = trouble ? `no answer: ${trouble}` : ill.length ? `look at ${ill.map(stage => stage.name).join(', ')}` : 'all is well';
  // Only what is new is said to who listens to the page.
  patch(status, h('p', { id: 'status', role: 'status' }, h('span', { class: `dot ${kind}` }), `${words} · page of ${pipeline.here.service}`));
  VIEWS[name](query);
}

document.addEventListener('submit', event => {
  event.preventDefault();
  const form = event.target, given = Object.fromEntries(new FormData(form));
  const whole = text => /^-?\d+$/.test(text) && Number.isSafeInteger(Number(text)) ? Number(text) : text;
  if (form.id === 'follow-form') {
    const id = given.asked.trim(), query = new URLSearchParams(id.startsWith('{') ? { key: id } : { id });
    followed.asked = null;
    if (location.hash === `#/follow?${query}`) draw(); else location.hash = `#/follow?${query}`;
  } else if (form.id === 'records-form') {
    const query = new URLSearchParams({ topic: form.dataset.topic, ...given });
    topics.asked = null;
    if (location.hash === `#/topics?${query}`) draw(); else location.hash = `#/topics?${query}`;
  } else if (form.id === 'range-form') command('snapshot', { table: given.table, from: [whole(given.from)], to: [whole(given.to)] });
  else if (form.id === 'backfill-form') {
    const { table, since, until, from, to } = given, key = text => text ? [whole(text)] : undefined;
    command('backfill', { table, since: since || undefined, until: until || undefined, from: key(from), to: key(to) });
  } else if (form.id === 'replay-form') command('replay', Object.fromEntries(Object.entries(given).filter(([, value]) => value !== '').map(([name, value]) => [name, Number(value)])));
  else if (form.id === 'token-form') { Object.assign(followed, { asked: null }); Object.assign(topics, { asked: null }); draw() }
});

document.addEventListener('click', event => {
  const button = event.target.closest('[data-command]');
  if (button) command(button.dataset.command, button.dataset.pair ? { pair: button.dataset.pair } : { table: button.dataset.table });
});

// Who listens to the page is led to the new view; who types in it already is left alone.
function focus_main() {
  const main = document.getElementById('main');
  if (!main.contains(document.activeElement)) main.focus({ preventScroll: true });
}

addEventListener('hashchange', () => { if (place()[0] === 'topics') look_at_topics(); if (place()[0] === 'control') look(); draw(); focus_main() });
addEventListener('resize', draw_lines);

(async function go_on() {
  await look();
  setTimeout(go_on, 1000);
})();
