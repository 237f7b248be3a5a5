local mysqlurl = require "mill.mysqlurl"

local GOOD = {
  { "mysql://me@db/app", { user = "me", host = "db", database = "app" } },
  { "mysql://me:pw@db:3307/app",
    { user = "me", password = "pw", host = "db", port = 3307, database = "app" } },
  { "mariadb://me@db", { user = "me", host = "db" } },
  { "MySQL://me@db/", { user = "me", host = "db" } },
  { "mysql://me:@db/app", { user = "me", password = "", host = "db", database = "app" } },
  { "mysql://a%40b:p%3A%2F%3F%23%40%25w@db/x%20y",
    { user = "a@b", password = "p:/?#@%w", host = "db", database = "x y" } },
  { "mysql://me:p:q@db/app", { user = "me", password = "p:q", host = "db", database = "app" } },
  { "mysql://me@[::1]:3306/app", { user = "me", host = "::1", port = 3306, database = "app" } },
  { "mysql://me@/app?socket=/run/mysqld/mysqld.sock",
    { user = "me", database = "app", socket = "/run/mysqld/mysqld.sock" } },
  { "mysql://me@localhost/app?socket=/a%26b&connect-timeout=3",
    { user = "me", host = "localhost", database = "app", socket = "/a&b", connect_timeout = 3 } },
  { "mysql://me@db/app?ssl=verify&ssl-ca=/ca.pem&ssl-cert=/c&ssl-key=/k",
    { user = "me", host = "db", database = "app",
      ssl = { verify = true, ca = "/ca.pem", cert = "/c", key = "/k" } } },
  { "mysql://me@db/app?ssl=require",
    { user = "me", host = "db", database = "app", ssl = { verify = false } } },
  { "mysql://me@db/app?ssl-ca=/ca.pem",
    { user = "me", host = "db", database = "app", ssl = { ca = "/ca.pem" } } },
  { "mysql://me@db/app?ssl-ca=/ca.pem&ssl-verify=false",
    { user = "me", host = "db", database = "app", ssl = { ca = "/ca.pem", verify = false } } },
}

local ESCAPES = "%3A %2F %3F %23 %40 and %25"

local BAD = {
  { "", "it does not look like mysql://USER:PASSWORD@HOST:3306/DATABASE" },
  { "localhost:3306", "it does not look like mysql://USER:PASSWORD@HOST:3306/DATABASE" },
  { "postgres://me@db/app", "it does not look like mysql://USER:PASSWORD@HOST:3306/DATABASE" },
  { "mysql://db/app", "it names no user; write mysql://USER@HOST/DATABASE" },
  { "mysql://@db/app", "it names no user; write mysql://USER@HOST/DATABASE" },
  { "mysql://:secret@db/app", "it names no user; write mysql://USER@HOST/DATABASE" },
  { "mysql://me@/app", "it names no host; write mysql://USER@HOST/DATABASE, or ?socket=PATH" },
  { "mysql://me:se%zzcret@db/app",
    "the password has a % that is not followed by two hexadecimal digits (write % as %25)" },
  { "mysql://me:secret%00@db/app",
    "the password has a % that is not followed by two hexadecimal digits (write % as %25)" },
  { "mysql://me:sec/ret@db/app",
    "in a user name or password, : / ? # @ and % are written as " .. ESCAPES },
  { "mysql://me:sec#ret@db/app",
    "in a user name or password, : / ? # @ and % are written as " .. ESCAPES },
  { "mysql://me:sec?ret@db/app",
    "in a user name or password, : / ? # @ and % are written as " .. ESCAPES },
  { "mysql://me@db:0/app",
    "the port is a number from 1 to 65535 (in a password, : / ? # @ and % are written as "
    .. ESCAPES .. ")" },
  { "mysql://me@db:65536/app",
    "the port is a number from 1 to 65535 (in a password, : / ? # @ and % are written as "
    .. ESCAPES .. ")" },
  { "mysql://me@db:/app",
    "the port is a number from 1 to 65535 (in a password, : / ? # @ and % are written as "
    .. ESCAPES .. ")" },
  { "mysql://me@a,b/app", "the host is not a host name" },
  { "mysql://me@db/app/more",
    "the database is one name after the host: mysql://USER@HOST/DATABASE" },
  { "mysql://me@db/app?charset=latin1",
    "unknown option 'charset' (known: connect-timeout, socket, ssl, ssl-ca, ssl-cert, ssl-key, "
    .. "ssl-verify)" },
  { "mysql://root:a@b?secret@host/db",
    "what is behind ? is not OPTION=VALUE (in a password, ? is written as %3F)" },
  { "mysql://me@db/app?connect-timeout=0", "option 'connect-timeout' takes whole seconds" },
  { "mysql://me@db/app?connect-timeout=1.5", "option 'connect-timeout' takes whole seconds" },
  { "mysql://me@db/app?socket=", "option 'socket' takes a path" },
  { "mysql://me@db/app?socket", "option 'socket' takes a path" },
  { "mysql://me@db/app?ssl=maybe", "option 'ssl' takes require or verify" },
  { "mysql://me@db/app?ssl-verify=1", "option 'ssl-verify' takes true or false" },
  { "mysql://me@db/app?ssl-ca=", "option 'ssl-ca' takes a file" },
}

describe("a MySQL URL", function()
  for _, case in ipairs(GOOD) do
    it("is understood: " .. case[1], function()
      assert.same(case[2], mysqlurl.parse(case[1]))
    end)
  end

  for _, case in ipairs(BAD) do
    it("is refused: " .. case[1], function()
      local options, message, code = mysqlurl.parse(case[1])
      assert.is_nil(options)
      assert.equal("mysql url: SYNTAX: " .. case[2], message)
      assert.equal("SYNTAX", code)
    end)
  end

  it("is text", function()
    local options, message = mysqlurl.parse(nil)
    assert.is_nil(options)
    assert.equal("mysql url: SYNTAX: expected text, got a nil", message)
  end)

  it("gives options that a connection accepts", function()
    local mysql = require "host.mysql"
    for _, case in ipairs(GOOD) do
      local options = assert(mysqlurl.parse(case[1]))
      options.host, options.port, options.socket = "127.0.0.1", 1, nil
      local db, _, code = mysql.connect(options)
      assert.is_nil(db)
      -- The certificates of the examples are not there.
      assert.equal(options.ssl and options.ssl.ca and "TLS" or "REFUSED", code)
    end
  end)

  it("is shown without what an unknown option holds", function()
    assert.equal("mysql://u@h/d?ssl=verify&password=***&ssl_ca=x",
      mysqlurl.mask("mysql://u@h/d?ssl=verify&password=hush&ssl_ca=x"))
  end)

  it("is shown without its password", function()
    for url, shown in pairs {
      ["mysql://me:pw@db:3307/app"] = "mysql://me:***@db:3307/app",
      ["mysql://me:p%40w@db/app?ssl=require"] = "mysql://me:***@db/app?ssl=require",
      ["mysql://me:p:q@db/app"] = "mysql://me:***@db/app",
      ["mysql://me@db/app"] = "mysql://me@db/app",
      ["mysql://:pw@db/app"] = "mysql://:***@db/app",
      ["mysql://db/app"] = "mysql://db/app",
    } do
      assert.equal(shown, mysqlurl.mask(url))
    end
  end)

  it("that is malformed is hardly shown at all", function()
    for _, url in ipairs {
      "mysql://me:sec/ret@db/app", "mysql://me:sec@ret@db/app", "mysql://me:sec?ret@db/app",
      "mysql://me:sec#ret@db/app", "mysql://me:secret", "me:secret@db/app", "secret",
    } do
      local shown = mysqlurl.mask(url)
      assert.is_nil(shown:find("sec", 1, true), shown)
      assert.is_nil(shown:find("ret", 1, true), shown)
      local options, message = mysqlurl.parse(url)
      assert.is_truthy(options or not message:find("sec", 1, true), message)
    end
  end)
end)
