-- TLS and SCRAM to real servers, configured as a user does it: what is right works, with the numbers
-- checked; what is wrong is refused by name, reason and way out, and never falls back to less.

local kafka_ = require "host.kafka"
local mysql = require "host.mysql"
local mysqlurl = require "mill.mysqlurl"
local process = require "host.process"
local real = require "spec.support.real"

describe("TLS and passwords", function()
  local why = real.missing()
  local ca = os.getenv "TIDEMILL_TLS_CA"
  if not why and not (ca and os.getenv "TIDEMILL_KAFKA_SASL_TLS") then
    why = "TIDEMILL_TLS_CA and TIDEMILL_KAFKA_SASL_TLS are not set (tools/servers.sh sets them)"
  end
  if why then
    it("needs servers", function() pending(why) end)
    return
  end

  local dir = ca:match("^(.*)/")
  local other_ca = dir .. "/other-ca.crt"
  local kafka_tls = os.getenv "TIDEMILL_KAFKA_TLS"
  local sasl = os.getenv "TIDEMILL_KAFKA_SASL"
  local sasl_tls = os.getenv "TIDEMILL_KAFKA_SASL_TLS"
  local user = "sasl.username=" .. os.getenv "TIDEMILL_KAFKA_SASL_USER"
  local password = os.getenv "TIDEMILL_KAFKA_SASL_PASSWORD"
  local TLS = "security.protocol=SSL,ssl.ca.location="
  local topic, places

  setup(function()
    topic = real.topic {}
    places = {}
    for i, base in ipairs(real.databases()) do places[i] = real.place(base) end
  end)
  teardown(function()
    for _, place in ipairs(places) do place:close() end
    real.close()
  end)

  local function at_localhost(address) return "localhost:" .. address:match("%d+$") end

  -- `tidemill check --connect` in this environment.
  local function check(place, env)
    return real.tidemill({ "check", "scripts/averages.lua", "--connect", "--set", "topic=" .. topic },
      { env = place:env(env), cwd = process.home() }):finish()
  end

  local function agrees(place, env)
    local r = check(place, env)
    assert.equal(0, r.status, r.err)
    assert.matches("(3 partitions)", r.out, 1, true)
  end

  -- Refused with exit code 3, in one line that has all these words.
  local function refuses(place, env, words)
    local r = check(place, env)
    assert.equal(3, r.status, r.err)
    assert.equal(1, select(2, r.err:gsub("\n", "")), r.err)
    for _, word in ipairs(words) do assert.matches(word, r.err, 1, true) end
    assert.is_nil(r.err:find(password, 1, true))
    assert.is_nil(r.err:find("tide-pass", 1, true))
  end

  describe("of Kafka", function()
    local function kafka(brokers, conf)
      return { TIDEMILL_KAFKA = brokers, TIDEMILL_KAFKA_CONF = conf }
    end

    it("let a trusted certificate through", function()
      agrees(places[1], kafka(kafka_tls, TLS .. ca))
    end)

    it("refuse a certificate of an authority that was not named", function()
      local words = { kafka_tls, "its certificate is refused", "authority that is not known",
        "ssl.ca.location", "TIDEMILL_KAFKA_CONF" }
      refuses(places[1], kafka(kafka_tls, TLS .. other_ca), words)
      refuses(places[1], kafka(kafka_tls, "security.protocol=ssl"), words)
    end)

    it("refuse a certificate for another host", function()
      refuses(places[1], kafka(at_localhost(kafka_tls), TLS .. ca),
        { at_localhost(kafka_tls), "its certificate is refused: it is not for this host name" })
    end)

    it("refuse an expired certificate", function()
      local address = os.getenv "TIDEMILL_KAFKA_EXPIRED"
      refuses(places[1], kafka(address, TLS .. ca),
        { address, "its certificate is refused: it has expired", "renew it" })
      agrees(places[1], kafka(kafka_tls, "security.protocol=ssl,enable.ssl.certificate.verification="
        .. "false"))
    end)

    it("do not go on in the clear", function()
      refuses(places[1], kafka(real.kafka(), TLS .. ca),
        { real.kafka(), "SSL handshake failed", "does it take TLS", "security.protocol" })
    end)

    it("are named where they are missing", function()
      refuses(places[1], kafka(kafka_tls, ""), { kafka_tls, "security.protocol" })
      refuses(places[1], kafka(sasl, ""), { sasl, "security.protocol" })
    end)

    for _, mechanism in ipairs { "SCRAM-SHA-256", "SCRAM-SHA-512" } do
      local plain = "security.protocol=SASL_PLAINTEXT,sasl.mechanisms=" .. mechanism
      it("take " .. mechanism, function()
        local secret = ",sasl.password=" .. password
        agrees(places[1], kafka(sasl, ("%s,%s%s"):format(plain, user, secret)))
        agrees(places[1], kafka(sasl_tls, ("%s,%s%s,ssl.ca.location=%s"):format(
          plain:gsub("SASL_PLAINTEXT", "SASL_SSL"), user, secret, ca)))
      end)

      it("refuse a wrong password of " .. mechanism, function()
        refuses(places[1], kafka(sasl, ("%s,%s,sasl.password=%s-not"):format(plain, user, password)),
          { sasl, "invalid credentials", mechanism, "sasl.password in kafka_conf" })
      end)
    end

    it("name the mechanisms that a broker takes", function()
      refuses(places[1], kafka(sasl, "security.protocol=SASL_PLAINTEXT,sasl.mechanisms=PLAIN," .. user
        .. ",sasl.password=" .. password),
        { sasl, "supported mechanisms: SCRAM-SHA-512,SCRAM-SHA-256", "set sasl.mechanisms" })
    end)

    it("are wrong use where the options do not fit together", function()
      local r = check(places[1], kafka(sasl, "security.protocol=SASL_PLAINTEXT,"
        .. "sasl.mechanisms=SCRAM-SHA-256"))
      assert.equal(2, r.status, r.err)
      assert.matches("sasl.username and sasl.password must be set", r.err, 1, true)
      r = check(places[1], kafka(kafka_tls, TLS .. dir .. "/none.crt"))
      assert.equal(2, r.status, r.err)
      assert.matches("ssl.ca.location", r.err, 1, true)
    end)

    it("are those of the script over the settings', for every client", function()
      local place, name, t = places[1], real.name "p", real.topic { partitions = 1 }
      local results = place:table()
      local path = os.tmpname()
      assert(process.atomic_write(path, ([[local mill = require "mill"
        return mill.pipeline { name = "%s",
          source = mill.kafka { topic = "%s", brokers = "%s", conf = {
            ["security.protocol"] = "SASL_SSL", ["sasl.mechanisms"] = "SCRAM-SHA-256",
            ["ssl.ca.location"] = "%s", ["%s"] = "%s", ["sasl.password"] = "%s" } },
          decode = mill.json { symbol = "string", price = "decimal(20,8)", timestamp = "time" },
          window = mill.tumbling { size = "1m", time = "timestamp", key = "symbol" },
          select = { symbol = "key", start_time = "window.start", end_time = "window.end",
            average_price = "avg(price)", price_sum = "sum(price)", samples = "count()" },
          sink = mill.mysql { table = "%s", key = { "symbol", "start_time" } },
        }]]):format(name, t, sasl_tls, ca, user:match("^(.-)=(.*)$"), user:match("=(.*)$"), password,
        results)))
      local records, last = {}, nil
      for n = 1, 3 do
        records[n] = { partition = 0, value = '{"symbol":"A","price":"1","timestamp":1723161600}' }
      end
      real.send(t, records)
      do -- The log's head is gone: then a reset reads what the log begins with.
        local admin <close> = kafka_.admin { brokers = real.kafka() }
        assert(admin:delete_records { { topic = t, partition = 0, offset = 1 } })
      end
      for _, words in ipairs { { "check", path, "--connect" }, { "run", path, "--until-end" },
        { "progress", "reset", path, "--from", "2024-08-09T00:00:00Z", "--execute" } } do
        last = real.tidemill(words, { cwd = process.home(),
          env = place:env(kafka(real.kafka(), TLS .. other_ca)) }):finish()
        assert.equal(0, last.status, words[1] .. ": " .. last.err)
        assert.is_nil((last.out .. last.err):find(password, 1, true))
      end
      assert.matches("1 result rows deleted", last.out, 1, true)
      os.remove(path)
    end)

    it("show in the runbook's health check", function()
      local r = real.tidemill({ "runbook", "health" }, { cwd = process.home(),
        env = places[1]:env(kafka(kafka_tls, TLS .. other_ca)) }):finish()
      assert.equal(2, r.status, r.err)
      assert.matches("kafka.brokers: no broker answers at " .. kafka_tls, r.out, 1, true)
      assert.matches("its certificate is refused", r.out, 1, true)
      assert.matches("fix: name the authority that signed it with ssl.ca.location", r.out, 1, true)
    end)
  end)

  for i, base in ipairs(real.databases()) do
    describe("of " .. base.name, function()
      local function url(query, host)
        local text = places[i].url .. "?connect-timeout=10&" .. query
        return { TIDEMILL_MYSQL = host and text:gsub("@127.0.0.1:", "@" .. host .. ":") or text }
      end

      it("let a trusted certificate through, and the connection is encrypted", function()
        agrees(places[i], url("ssl=verify&ssl-ca=" .. ca))
        agrees(places[i], url("ssl_ca=" .. ca))
        agrees(places[i], url("ssl=require"))
        for _, query in ipairs { "ssl-ca=" .. ca, "ssl=require" } do
          local db <close> = assert(mysql.connect(assert(mysqlurl.parse(url(query).TIDEMILL_MYSQL))))
          assert.matches("^TLS_", assert(db:query("show status like 'Ssl_cipher'")).rows[1][2])
        end
      end)

      it("refuse a certificate of an authority that was not named", function()
        local words = { places[i].url:match("127[%d.:]+"), "self-signed certificate in certificate",
          "?ssl-ca=FILE" }
        refuses(places[i], url("ssl-ca=" .. other_ca), words)
        refuses(places[i], url("ssl=verify"), words)
      end)

      it("refuse a certificate for another host", function()
        refuses(places[i], url("ssl-ca=" .. ca, "localhost"),
          { "localhost:", "certificate is not for the host localhost", "must be named" })
      end)

      it("name a file that is not there", function()
        refuses(places[i], url("ssl-ca=" .. dir .. "/none.crt"),
          { "the file " .. dir .. "/none.crt cannot be read: No such file" })
      end)

      it("take a certificate of ours where the server wants one", function()
        local name = real.name "u"
        places[i].db:query(("create user %s@'%%' identified by 'x' require x509"):format(name))
        places[i].db:query(("grant all on *.* to %s@'%%'"):format(name))
        local function as(query)
          local vars = url(query)
          vars.TIDEMILL_MYSQL = vars.TIDEMILL_MYSQL:gsub("//[^@]*@", "//" .. name .. ":x@")
          return vars
        end
        agrees(places[i], as(("ssl-ca=%s&ssl-cert=%s/client.crt&ssl-key=%s/client.key"):format(ca, dir,
          dir)))
        refuses(places[i], as("ssl-ca=" .. ca), { "AUTH", "Access denied" })
        places[i].db:query("drop user " .. name)
      end)

      it("show in the runbook's health check", function()
        local r = real.tidemill({ "runbook", "health" }, { cwd = process.home(),
          env = places[i]:env(url("ssl-ca=" .. other_ca)) }):finish()
        assert.matches("mysql.connect: no trusted connection to MySQL at 127", r.out, 1, true)
        assert.matches("fix: TIDEMILL_MYSQL takes ?ssl-ca=FILE", r.out, 1, true)
      end)

      it("carry a whole pipeline", function()
        local t = real.topic { partitions = 3 }
        local folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-tls-"))
        local lines, begin = { "ts_ms,symbol,price" }, 1723161600000
        for n = 1, 3000 do
          lines[n + 1] = ("%d,S%d,%d.%02d"):format(begin + n * 40, n % 7, n % 911 + 1, n % 100)
        end
        assert(process.atomic_write(folder .. "/trades.csv", table.concat(lines, "\n") .. "\n"))
        assert(process.atomic_write(folder .. "/kafka.conf", ("security.protocol=SASL_SSL\n%s\n"
          .. "sasl.mechanisms=SCRAM-SHA-512\nsasl.password=%s\nssl.ca.location=%s\n"):format(user,
            password, ca)))
        local vars = url("ssl=verify&ssl-ca=" .. ca)
        vars.TIDEMILL_KAFKA, vars.TIDEMILL_KAFKA_CONF_FILE = sasl_tls, folder .. "/kafka.conf"
        local sent = real.tidemill({ "run", "scripts/replay.lua", "--json", "--set", "topic=" .. t,
          "--set", "speed=0", "--set", "file=" .. folder .. "/trades.csv" },
          { env = vars, cwd = process.home() }):finish()
        assert.equal(0, sent.status, sent.err)
        local o = { topic = t, size_ms = 1000, name = real.name "p", table = places[i]:table(), env = vars }
        o.runs = { places[i]:average(o) }
        local want = real.verify(places[i], o)
        assert.equal(3000, want.consumed)
        assert.is_true(#want.results > 500)
        os.remove(folder .. "/trades.csv")
        os.remove(folder .. "/kafka.conf")
        os.remove(folder)
      end)
    end)
  end

  describe("of a database with a bad certificate or none", function()
    local mariadb = require "spec.support.mariadb"

    local function refused(options, word)
      local db, message, code = mysql.connect(options)
      assert.is_nil(db)
      assert.equal("TLS", code, message)
      assert.matches(word, message, 1, true)
    end

    local function with(options, ssl)
      local out = { connect_timeout = 10, ssl = ssl }
      for key, value in pairs(options) do out[key] = value end
      return out
    end

    it("do not go on in the clear", function()
      local server <close> = mariadb.new { "--skip-ssl" }
      refused(with(server.tcp, { ca = ca }), "support")
      refused(with(server.tcp, { verify = false }), "does not offer it")
    end)

    -- MySQL does not even start with one.
    it("refuse an expired certificate of MariaDB", function()
      local server <close> = mariadb.new { "--ssl-ca=" .. ca, "--ssl-cert=" .. dir .. "/expired.crt",
        "--ssl-key=" .. dir .. "/expired.key" }
      refused(with(server.tcp, { ca = ca }), "certificate has expired")
      local db <close> = assert(mysql.connect(with(server.tcp, { verify = false })))
      assert(db:query("select 1"))
    end)
  end)
end)
