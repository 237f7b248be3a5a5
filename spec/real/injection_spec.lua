-- Symbols, keys, names and columns that try to be SQL: what is data stays data, on both servers, also
-- where the server is set up so that a backslash quotes nothing. Compared with the oracle row by row.

local json = require "mill.json"
local mysql = require "host.mysql"
local mysqlurl = require "mill.mysqlurl"
local process = require "host.process"
local real = require "spec.support.real"

-- Good symbols, if nasty ones: every one is a key of its own.
local HOSTILE = {
  "'", "''", "\\", "\\'", "\\\\'", "'\\", "\"", "\\\"", "`", "--", "-- ", "#", "/*", "*/", "/*!50000 ", ";",
  "'; drop table bystander; -- ", "\\'; drop table bystander; -- ", "\\\\'; drop table bystander; -- ",
  "x' or '1'='1", "x\\' or \\'1\\'=\\'1", "') on duplicate key update samples = 99 -- ",
  "'), ('a', 1, 1, 1, 1, 1) -- ", "', sleep(10), '", "\0", "\0'; drop table bystander; -- ", "a\0b",
  "\n", "\r\n'", "\t", "\26", "\26'", "%", "_", "\\%", "\\_", "?", "??", "%s", "%d%n", "${x}", "$1", ":a",
  "\u{2019}", "\u{ff07}; drop table bystander; -- ", "\u{bf}'", "\u{bf}\\'", "\u{4e27}", "\u{1f4a3}'",
  "null", "NULL", "0x27", "x'27'", "@@version", "''''''''", ("'"):rep(200), ("\\"):rep(199),
  ("\\'"):rep(100), "' union select password from mysql.user -- ", "$$", "\\u0027", "&#39;",
}

-- No text at all, or too long: dead letters, with their bytes.
local BROKEN = {
  "\xbf'", "\xbf\\'", "\xbf\x27; drop table bystander; -- ", "\xc0\xa7", "\xe0\x80\xa7 or 1=1", "\xff'\xfe",
  "\xf0\x9f\x27", "\xed\xa0\x80'", ("'"):rep(65536), ("\\"):rep(65535), ("x';--"):rep(20000),
}

local NAMES = {
  "a`b", "a``; drop table bystander; -- x", "it's \"quoted\" \\ here", "select", "100%s", "a.b", "-- x", "/*",
}

describe("hostile input", function()
  local why = real.missing()
  if why then
    it("needs servers", function() pending(why) end)
    return
  end

  local topic

  local function message(symbol, n)
    return ('{"symbol":%s,"price":"%d.5","timestamp":%d}'):format(symbol, n, 1723161600 + n % 50)
  end

  setup(function()
    topic = real.topic { partitions = 3 }
    local records = {}
    for round = 1, 3 do
      for n, symbol in ipairs(HOSTILE) do
        records[#records + 1] = { key = symbol, value = message(json.encode(symbol), n * round) }
      end
    end
    for n, symbol in ipairs(BROKEN) do
      local raw = symbol:gsub("[\\\"]", "\\%0")
      records[#records + 1] = { key = symbol, value = message('"' .. raw .. '"', n) }
      records[#records + 1] = { key = symbol, value = symbol }
    end
    real.send(topic, records)
  end)
  teardown(function() real.close() end)

  for _, base in ipairs(real.databases()) do
    describe("on " .. base.name, function()
      local place

      before_each(function()
        place = real.place(base)
        place:query("create table bystander (a int primary key)")
        place:query("insert into bystander values (1), (2)")
        place:query("alter table moving_averages modify symbol varchar(255) character set utf8mb4 "
          .. "collate " .. (base.name == "MySQL" and "utf8mb4_0900_bin" or "utf8mb4_nopad_bin")
          .. " not null")
      end)
      after_each(function()
        assert.equal("3", place:value("select sum(a) from bystander"))
        place:close()
      end)

      local function run_and_verify(o)
        o.topic, o.size_ms, o.max_symbol, o.lateness_ms = topic, 10000, 255, 86400000
        o.name = o.name or real.name "p"
        o.runs = { place:average(o) }
        local want = real.verify(place, o)
        local symbols = {}
        for _, row in ipairs(place:results(o.table or "moving_averages")) do symbols[row[1]] = true end
        for _, symbol in ipairs(HOSTILE) do assert.is_true(symbols[symbol], symbol) end
        assert.equal(2 * #BROKEN, #want.dead)
      end

      it("is data", function()
        run_and_verify {}
        local r = real.tidemill({ "deadletters", "ls", "--json" }, { env = place:env() }):finish()
        assert.equal(0, r.status, r.err)
      end)

      it("is data where a backslash quotes nothing", function()
        local mode = place:value("select @@global.sql_mode")
        local connect = place:value("select @@global.init_connect")
        local user = real.name "u"
        place:query("create user %s@'%%' identified by 'x'", user)
        place:query("grant all on `%s`.* to %s@'%%'", place.database, user)
        place:query("set global sql_mode = concat(@@global.sql_mode, ',NO_BACKSLASH_ESCAPES,ANSI_QUOTES')")
        place:query("set global init_connect = 'set sql_mode = ''NO_BACKSLASH_ESCAPES,ANSI_QUOTES'''")
        local ok, err = pcall(function()
          local url = place.url:gsub("//[^@]*@", "//" .. user .. ":x@")
          run_and_verify { env = { TIDEMILL_MYSQL = url } }
          local options = assert(mysqlurl.parse(url))
          options.init = { "set sql_mode = 'NO_BACKSLASH_ESCAPES'" }
          local db <close> = assert(mysql.connect(options))
          for _, symbol in ipairs(HOSTILE) do
            assert.equal(symbol, assert(db:query("select " .. db:quote(symbol))).rows[1][1])
          end
        end)
        place:query("set global sql_mode = " .. place.db:quote(mode))
        place:query("set global init_connect = " .. place.db:quote(connect))
        place:query("drop user " .. user)
        assert(ok, err)
      end)

      it("is a name where names are asked for", function()
        for _, name in ipairs(NAMES) do
          place:query("create table %s like moving_averages", (mysql.name(name)))
          run_and_verify { table = name, instance = name:gsub("[^%w]", "") .. "'`" }
        end
        for _, name in ipairs { "x' or '1'='1", "x\\' or 1=1 -- ", table.unpack(NAMES) } do
          local r = real.tidemill({ "progress", name, "--json" }, { env = place:env() }):finish()
          assert.equal(0, r.status, r.err)
          assert.equal(0, #json.decode(r.out).progress)
          r = real.tidemill({ "deadletters", "ls", name, "--json" }, { env = place:env() }):finish()
          assert.equal(0, r.status, r.err)
          assert.is_nil(r.out:find(topic, 1, true))
        end
      end)

      it("is a name in a runbook's settings", function()
        for _, name in ipairs(NAMES) do
          local r = real.tidemill({ "runbook", "health", "--set", "table=" .. name, "--set",
            "topic=" .. topic }, { env = place:env(), cwd = process.home() }):finish()
          assert.matches("table .* is missing", r.out)
          assert.is_nil((r.out .. r.err):find("SYNTAX", 1, true))
        end
      end)
    end)
  end
end)
