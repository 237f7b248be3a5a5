local backup = require "mill.backup"
local clock = require "host.clock"
local command = require "spec.support.command"
local json = require "mill.json"
local mysql = require "host.mysql"
local process = require "host.process"

local DEADLINE_MS = 60000 * require "spec.support.slow"
local PASSWORD = [[p#"a\s'b c;%s]]

-- Two tables that every transaction keeps equal in sum and count.
local WRITER = [[
local mysql, process = require "host.mysql", require "host.process"
local db = assert(mysql.connect { socket = arg[1], user = "root", database = arg[2] })
local i = 0
process.graceful(true)
while process.stop_requested() == 0 do
  i = i + 1
  assert(db:query "start transaction")
  assert(db:query(("insert into one (id, v, pad) values (%d, %d, repeat('x', 200))"):format(i, i)))
  assert(db:query(("insert into two (id, v) values (%d, %d)"):format(i, i)))
  assert(db:query(("update one set v = v + 1 where id = %d"):format(i // 2 + 1)))
  assert(db:query(("update two set v = v + 1 where id = %d"):format(i // 2 + 1)))
  assert(db:query "commit")
end
]]

local function write_file(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local function read_file(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

describe("tidemill runbook backup and restore", function()
  local server, folder, dir, root

  setup(function()
    server = require("spec.support.mariadb").start()
    root = assert(mysql.connect(server.options))
  end)

  teardown(function()
    root:close()
  end)

  before_each(function()
    folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-backup-"))
    dir = folder .. "/backups"
  end)

  after_each(function()
    os.execute("rm -rf '" .. folder .. "'")
  end)

  local function query(sql)
    return assert(root:query(sql))
  end

  local function task(name, database, ...)
    local url = database:find("^mysql:") and database or server.url_of(database)
    local r = command({ "runbook", name, "--json", "--set", "dir=" .. dir, ... },
      { env = { TIDEMILL_MYSQL = url } })
    local doc = assert(json.decode(r.out), r.out .. r.err)
    local by_id = {}
    for _, result in ipairs(doc.results) do by_id[result.id] = result end
    return r.status, doc, by_id
  end

  local function files()
    local list = {}
    for _, file in ipairs(process.list(dir) or {}) do
      if file ~= ".lock" then list[#list + 1] = file end
    end
    table.sort(list)
    return list
  end

  local function schemas(like)
    local list = {}
    for _, row in ipairs(query("show databases like " .. root:quote(like)).rows) do
      list[#list + 1] = row[1]
    end
    return list
  end

  local function filled()
    local name = server.fresh_database()
    local t = mysql.name(name)
    query(("create table %s.one (id int primary key, v bigint, pad varchar(255))"):format(t))
    query(("create table %s.two (id int primary key, v bigint)"):format(t))
    query(("create table %s.odd (a int, b varbinary(20), c decimal(20,8), d datetime(3), "
      .. "e varchar(50) character set utf8mb4, f double)"):format(t))
    query(("insert into %s.odd values (1, x'00ff270a5c', 61837.63, '2024-08-09 12:00:00.123', "
      .. "'\u{e9}\u{6771}\u{1f30a}\\n', 0.1), (null, null, null, null, '', null), "
      .. "(null, null, null, null, null, null), (null, null, null, null, null, null)"):format(t))
    query(("insert into %s.one values (1, 1, 'a'), (2, 2, null)"):format(t))
    return name
  end

  local function drop(...)
    for _, name in ipairs { ... } do
      query("drop database if exists " .. mysql.name(name))
    end
  end

  it("writes a dump and a manifest, private, whole and nothing else", function()
    local name = filled()
    local status, doc = task("backup", name)
    assert.equal(0, status)
    local list = files()
    assert.equal(2, #list)
    assert.truthy(list[1]:find("^" .. name .. "%-%d+_%d+%.manifest%.json$"), list[1])
    for _, file in ipairs(list) do
      assert.equal("600", ("%o"):format(process.stat(dir .. "/" .. file).mode & 511))
    end
    assert.equal("700", ("%o"):format(process.stat(dir).mode & 511))
    local manifest = assert(json.decode(read_file(dir .. "/" .. list[1])))
    assert.same({ "tidemill-backup/v1", name, 6, list[2], "mariadb" }, { manifest.schema,
      manifest.database, manifest.rows, manifest.file, manifest.server.flavor })
    assert.equal(manifest.sha256, require("host.digest").file(dir .. "/" .. list[2]))
    assert.same(doc.backup, manifest)
    assert.equal(dir .. "/" .. list[2], doc.path)
  end)

  it("restores into a schema of its own, equal to the backup", function()
    local name = filled()
    assert.equal(0, (task("backup", name, "--set", "compress=gzip")))
    query(("delete from %s.one"):format(mysql.name(name)))
    local status, doc, by_id = task("restore", name)
    assert.equal(0, status, json.encode(doc))
    assert.truthy(doc.schema_name:find("^" .. name .. "_restored_%d+_%d+"))
    assert.equal("3 tables with 6 rows are equal to the backup", by_id["restore.verify"].summary)
    assert.equal(2, query(("select count(*) from %s.one"):format(doc.schema_name)).rows[1][1])
    assert.same({ "\u{e9}\u{6771}\u{1f30a}\n" },
      query(("select e from %s.odd where a = 1"):format(doc.schema_name)).rows[1])
    local second, again = task("restore", name)
    assert.equal(0, second)
    assert.not_equal(doc.schema_name, again.schema_name)
    drop(doc.schema_name, again.schema_name)
  end)

  it("dumps and counts one moment while transactions are written", function()
    local name = filled()
    query(("delete from %s.one"):format(mysql.name(name)))
    write_file(folder .. "/writer.lua", WRITER)
    local writer <close> = assert(process.spawn {
      argv = { process.exe(), "exec", folder .. "/writer.lua", server.socket, name },
      env = { TIDEMILL_HOME = process.home() }, stderr = folder .. "/writer.err",
    })
    local deadline, count = clock.mono_ms() + DEADLINE_MS, 0
    local function await(n)
      repeat
        assert(clock.mono_ms() < deadline, read_file(folder .. "/writer.err"))
        count = query(("select count(*) from %s.two"):format(mysql.name(name))).rows[1][1]
      until count >= n
    end
    for _ = 1, 5 do
      await(count + 50)
      local status, doc = task("backup", name)
      assert.equal(0, status, json.encode(doc))
      local restored, result = task("restore", name)
      assert.equal(0, restored, json.encode(result))
      local t = mysql.name(result.schema_name)
      local one = query(("select count(*), sum(v) from %s.one"):format(t)).rows[1]
      assert.same(one, query(("select count(*), sum(v) from %s.two"):format(t)).rows[1])
      assert.truthy(one[1] >= 50)
      drop(result.schema_name)
    end
    writer:kill("TERM")
    assert.equal(0, assert(writer:wait(DEADLINE_MS)).code, read_file(folder .. "/writer.err"))
  end)

  it("gives the password to no program's arguments, whatever characters it has", function()
    local name = filled()
    query("create or replace user dumper@'127.0.0.1' identified by " .. root:quote(PASSWORD))
    query(("grant select, lock tables, show view, trigger, event on %s.* to dumper@'127.0.0.1'")
      :format(mysql.name(name)))
    local spy = folder .. "/spy-dump"
    write_file(spy, ("#!/bin/sh\n[ \"$1\" = --version ] || { printf '%%s\\n' \"$@\" > %s/argv\n"
      .. "stat -c %%a \"${1#*=}\" >> %s/argv; }\nexec mariadb-dump \"$@\"\n"):format(folder, folder))
    os.execute("chmod 755 " .. spy)
    local encoded = PASSWORD:gsub("[^%w]", function(c) return ("%%%02X"):format(c:byte()) end)
    local status, doc = task("backup", ("mysql://dumper:%s@127.0.0.1:%d/%s"):format(encoded,
      server.port, name), "--set", "program=" .. spy)
    assert.equal(0, status, json.encode(doc))
    local argv = read_file(folder .. "/argv")
    assert.truthy(argv:find("^%-%-defaults%-file=/"))
    assert.truthy(argv:find("\n600\n"))
    assert.truthy(argv:find("\n--single-transaction\n", 1, true))
    assert.falsy(argv:find(PASSWORD, 1, true))
    assert.is_nil(process.stat(argv:match("=([^\n]+)")), "the option file is still there")
    query "drop user dumper@'127.0.0.1'"
  end)

  it("keeps nothing of a dump that failed or is not complete, and exits 2", function()
    local name = filled()
    for text, said in pairs {
      ["echo partial; echo oh no >&2; exit 3"] = "dump ended with status 3: oh no",
      ["echo '-- a dump without an end'"] = "no end mark",
      ["kill -9 $$"] = "was killed by signal KILL",
    } do
      local program = folder .. "/bad-dump"
      write_file(program, "#!/bin/sh\n[ \"$1\" = --version ] && { echo x MariaDB; exit; }\n" .. text)
      os.execute("chmod 755 " .. program)
      local status, _, by_id = task("backup", name, "--set", "program=" .. program)
      assert.equal(2, status)
      assert.truthy(by_id["backup.dump"].detail[1]:find(said, 1, true), by_id["backup.dump"].detail[1])
      assert.truthy(by_id["backup.dump"].fix.text)
      assert.same({}, files())
    end
  end)

  it("says what is missing before it starts", function()
    local name = filled()
    local status, _, by_id = task("backup", name, "--set", "program=/no/such/program")
    assert.equal(2, status)
    assert.truthy(by_id["backup.programs"].detail[1]:find("/no/such/program is not a program", 1,
      true))
    status, _, by_id = task("backup", name, "--set", "compress=nothing")
    assert.equal(2, status)
    assert.truthy(by_id["backup.programs"].detail[1]:find("no compressor 'nothing'", 1, true))
    query(("create table %s.old (a int) engine = MyISAM"):format(mysql.name(name)))
    status, _, by_id = task("backup", name)
    assert.equal(2, status)
    assert.equal("table old is MyISAM: it has no snapshot", by_id["backup.database"].summary)
    status, _, by_id = task("backup", (server.fresh_database()))
    assert.equal(2, status)
    assert.truthy(by_id["backup.database"].summary:find("has no tables", 1, true))
    assert.equal(2, (task("backup", "mysql://root@127.0.0.1:1/x")))
  end)

  it("does not run twice at once in one folder", function()
    local name = filled()
    assert(process.mkdir_p(dir))
    local lock <close> = assert(process.lock(dir .. "/.lock"))
    local status, _, by_id = task("backup", name)
    assert.truthy(lock)
    assert.equal(3, status)
    assert.truthy(by_id["backup.dump"].detail[1]:find("another backup writes to", 1, true))
  end)

  -- A program in place of the dump program, which it is with --version.
  local function program(text)
    local path = folder .. "/program"
    write_file(path, "#!/bin/sh\n[ \"$1\" = --version ] && exec mariadb-dump \"$@\"\n" .. text)
    os.execute("chmod 755 " .. path)
    return path
  end

  it("reads no login file of the user's", function()
    local path = program(('echo "$MYSQL_TEST_LOGIN_FILE" > %s/login\nexec mariadb-dump "$@"\n')
      :format(folder))
    assert.equal(0, (task("backup", filled(), "--set", "program=" .. path)))
    local login = read_file(folder .. "/login")
    assert.matches("^/.*/none\n$", login)
    assert.is_nil(process.stat(login:sub(1, -2)))
  end)

  it("lets writers in when the dump does not begin, and keeps nothing", function()
    local name = filled()
    local before = backup.SNAPSHOT_MS
    backup.SNAPSHOT_MS = 300
    finally(function() backup.SNAPSHOT_MS = before end)
    local options = { database = name }
    for key, value in pairs(server.options) do options[key] = options[key] or value end
    local db <close> = assert(mysql.connect(options))
    local tables = assert(require("mill.tablesum").tables(db, name))
    local began = clock.mono_ms()
    local taken, message, code = backup.take {
      options = options, db = db, tables = tables, path = folder .. "/out",
      program = { path = program "exec sleep 600\n", flavor = "mariadb" },
      compressor = assert(require("mill.dump").compressor "gzip"),
    }
    assert.same({ nil, "LOCKWAIT" }, { taken, code })
    assert.matches("the dump program has not begun within 0.3 s", message, 1, true)
    assert.is_true(clock.mono_ms() - began < DEADLINE_MS)
    query(("insert into %s.two values (1, 1)"):format(mysql.name(name)))
  end)

  it("is no backup when the lock was lost before the dump's snapshot", function()
    local name = filled()
    local path = program([[
id=$(mariadb $1 -N -e 'select max(id) from information_schema.processlist where id <> connection_id()')
mariadb $1 -e "kill $id"
exec mariadb-dump "$@"
]])
    local status, _, by_id = task("backup", name, "--set", "program=" .. path)
    assert.equal(2, status)
    assert.equal("the dump failed; nothing was kept", by_id["backup.dump"].summary)
    assert.same({}, files())
  end)

  it("restores the newest backup of the database that is configured, and no other's", function()
    local one, other, third = filled(), filled(), filled()
    assert.equal(0, (task("backup", one)))
    assert.equal(0, (task("backup", other)))
    local status, doc = task("restore", one)
    assert.equal(0, status)
    assert.equal(one, doc.backup:match("/([^/]+)%-%d+_%d+%.sql"))
    drop(doc.schema_name)
    local said
    status, doc, said = task("restore", third, "--into", third, "--execute")
    assert.equal(3, status, json.encode(doc))
    assert.matches(("no backup of database %s in %s, but of %s, %s"):format(third, dir, one, other),
      said["restore.file"].detail[1], 1, true)
    status, doc, said = task("restore", (server.url_of(one):gsub("/[^/]*$", "/")))
    assert.equal(3, status, json.encode(doc))
    assert.matches("has backups of several databases: ", said["restore.file"].detail[1], 1, true)
    drop(other, third)
  end)

  it("follows links to a backup", function()
    local name = filled()
    local _, doc = task("backup", name)
    local links = folder .. "/links"
    assert(process.mkdir_p(links))
    os.execute(("ln -s %s %s %s"):format(doc.path, doc.manifest, links))
    local status, restored = task("restore", name, links .. "/" .. doc.path:match("[^/]+$"))
    assert.equal(0, status, json.encode(restored))
    drop(restored.schema_name)
  end)

  it("restores views, triggers, routines and events, into an empty schema alone", function()
    local name = filled()
    local t = mysql.name(name)
    query(("create view %s.seen as select id from %s.one"):format(t, t))
    query(("create procedure %s.nothing() select 1"):format(t))
    query(("create event %s.never on schedule every 1 year do select 1"):format(t))
    assert.equal(0, (task("backup", name)))
    local status, doc = task("restore", name)
    assert.equal(0, status, json.encode(doc))
    assert.equal(2, #query(("select * from %s.seen"):format(doc.schema_name)).rows)
    query("drop event " .. doc.schema_name .. ".never")
    drop(doc.schema_name)
    -- One that has tables again, made by hand.
    drop(name)
    query("create database " .. t)
    query(("create table %s.one (id int)"):format(t))
    local by_id
    status, doc, by_id = task("restore", name, "--into", name, "--execute")
    assert.equal(2, status, json.encode(doc))
    assert.equal("the backup holds what cannot change places: 1 view, 1 routine, 1 event",
      by_id["restore.target"].summary)
    -- As an older version wrote it.
    local manifest = json.decode(read_file(dir .. "/" .. files()[1]))
    manifest.others = nil
    write_file(dir .. "/" .. files()[1], json.encode(manifest))
    status, doc, by_id = task("restore", name, "--into", name, "--execute")
    assert.equal(2, status)
    assert.matches("cannot change places", by_id["restore.verify"].summary, 1, true)
    assert.same({ { "one" } }, query("show tables from " .. t).rows)
    drop(by_id["restore.verify"].fix.text:match("schema (%S+):"))
    assert.truthy(doc)
  end)

  it("refuses a file that is not what was written, and makes no schema", function()
    local name = filled()
    local _, doc = task("backup", name)
    local bytes = read_file(doc.path)
    local at = #bytes // 2
    write_file(doc.path, bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ 1)
      .. bytes:sub(at + 1))
    local status, _, by_id = task("restore", name)
    assert.equal(2, status)
    assert.truthy(by_id["restore.file"].summary:find("its SHA-256 differs", 1, true))
    write_file(doc.path, bytes:sub(1, -2))
    assert.equal(2, (task("restore", name, doc.path)))
    os.remove(doc.path)
    assert.equal(2, (task("restore", name)))
    assert.same({}, schemas(name .. "\\_restored%"))
  end)

  it("exits 3 without a manifest: a file alone is no backup", function()
    local name = filled()
    local status, _, by_id = task("restore", name)
    assert.equal(3, status)
    assert.truthy(by_id["restore.file"].detail[1]:find("there is no backup in", 1, true))
    local _, doc = task("backup", name)
    os.remove(doc.manifest)
    assert.equal(3, (task("restore", name, doc.path)))
  end)

  it("finds a table that differs from the manifest, though its rows are as many", function()
    local name = filled()
    local _, doc = task("backup", name)
    local text = read_file(doc.manifest)
    write_file(doc.manifest, (text:gsub('"checksum": "(%d+):', '"checksum": "1%1:', 1)))
    local status, result, by_id = task("restore", name)
    assert.equal(2, status)
    assert.truthy(by_id["restore.verify"].summary:find("but other values", 1, true))
    drop(result.schema_name)
    local manifest = json.decode(text)
    manifest.tables[1].rows = manifest.tables[1].rows + 1
    write_file(doc.manifest, json.encode(manifest))
    status, result, by_id = task("restore", name)
    assert.equal(2, status)
    assert.truthy(by_id["restore.verify"].summary:find("rows, the backup", 1, true))
    drop(result.schema_name)
  end)

  it("leaves a schema with tables alone, and replaces them only when told", function()
    local name = filled()
    local t = mysql.name(name)
    assert.equal(0, (task("backup", name)))
    query(("delete from %s.one"):format(t))
    query(("create table %s.newer (a int)"):format(t))
    local status, _, by_id = task("restore", name, "--into", name)
    assert.equal(2, status)
    assert.truthy(by_id["restore.target"].fix.cmd:find("--into " .. name .. " --execute", 1, true))
    assert.equal(0, query(("select count(*) from %s.one"):format(t)).rows[1][1])
    local done, doc = task("restore", name, "--into", name, "--execute")
    assert.equal(0, done, json.encode(doc))
    assert.equal(2, query(("select count(*) from %s.one"):format(t)).rows[1][1])
    assert.same({}, query(("show tables from %s like 'newer'"):format(t)).rows)
    assert.equal(0, query(("select count(*) from %s.newer"):format(mysql.name(doc.kept))).rows[1][1])
    assert.same({}, schemas(name .. "\\_restore\\_%"))
    drop(doc.kept)
  end)

  it("replaces nothing under a running pipeline, nor the server's own schemas", function()
    local name = filled()
    assert.equal(0, command({ "migrate" }, { env = { TIDEMILL_MYSQL = server.url_of(name) } }).status)
    assert.equal(0, (task("backup", name)))
    query(("insert into %s.mill_instances values ('averages', 'a', 'r', 'h', 'b', 1, now(3), "
      .. "now(3) + interval 1 hour)"):format(mysql.name(name)))
    local status, _, by_id = task("restore", name, "--into", name, "--execute")
    assert.equal(2, status)
    assert.truthy(by_id["restore.target"].summary:find("a pipeline runs on schema " .. name, 1, true))
    local r = command { "runbook", "restore", "--into", "mysql", "--execute" }
    assert.equal(3, r.status)
    assert.truthy(r.err:find("that schema is the server's own", 1, true))
  end)
end)
