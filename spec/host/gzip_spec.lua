local gzip = require "host.gzip"
local process = require "host.process"

describe("a line reader", function()
  local folder

  before_each(function()
    folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-gzip-"))
  end)

  after_each(function()
    for _, name in ipairs(process.list(folder)) do os.remove(folder .. "/" .. name) end
    os.remove(folder)
  end)

  local function file(bytes)
    local path = folder .. "/file"
    local f <close> = assert(io.open(path, "wb"))
    f:write(bytes)
    return path
  end

  local function read_all(path, options)
    local reader <close> = assert(gzip.open(path, options))
    local out = {}
    while true do
      local line, message, code = reader:line()
      if not line then return out, message, code, reader:number() end
      out[#out + 1] = line
    end
  end

  local cases = {
    { "nothing", "", {} },
    { "one line", "a\n", { "a" } },
    { "a last line without its end", "a\nb", { "a", "b" } },
    { "empty lines", "\n\na\n\n", { "", "", "a", "" } },
    { "carriage returns", "a\r\nb\r\n\r\n", { "a", "b", "" } },
    { "a byte order mark", "\xEF\xBB\xBFa\n\xEF\xBB\xBFb\n", { "a", "\xEF\xBB\xBFb" } },
    { "a lone carriage return", "a\rb\n", { "a\rb" } },
    { "zero bytes", "a\0b\n\0\n", { "a\0b", "\0" } },
  }
  for _, case in ipairs(cases) do
    it("reads " .. case[1] .. ", plain and packed", function()
      assert.same(case[3], (read_all(file(case[2]))))
      assert.same(case[3], (read_all(file(gzip.pack(case[2])))))
    end)
  end

  it("reads lines across the edges of its buffer", function()
    local lines = {}
    for i = 1, 3000 do lines[i] = ("%d:"):format(i) .. ("x"):rep(i * 7 % 997) end
    local text = table.concat(lines, "\n") .. "\n"
    assert.same(lines, (read_all(file(text))))
    assert.same(lines, (read_all(file(gzip.pack(text)))))
  end)

  it("reads one line that is longer than its buffer", function()
    local long = ("y"):rep(700000)
    assert.same({ long, "z" }, (read_all(file(gzip.pack(long .. "\nz\n")))))
  end)

  it("reads gzip members one after the other", function()
    assert.same({ "a", "b" }, (read_all(file(gzip.pack("a\n") .. gzip.pack("b\n")))))
  end)

  it("counts lines", function()
    local reader <close> = gzip.open(file("a\nb\n"))
    assert.equal(0, reader:number())
    reader:line()
    assert.equal(1, reader:number())
  end)

  it("tells how much of the file it has taken", function()
    local text = gzip.pack(("a\n"):rep(1000000))
    local reader <close> = gzip.open(file(text))
    assert.equal(0, reader:taken())
    reader:line()
    assert.is_true(reader:taken() > 0 and reader:taken() <= #text)
    while reader:lines(1000) do end -- luacheck: ignore
    assert.equal(#text, reader:taken())
  end)

  it("cannot tell that of a pipe", function()
    local path = folder .. "/pipe"
    assert(os.execute("mkfifo '" .. path .. "'"))
    finally(function() os.remove(path) end)
    -- Not by host.process: memcheck lets it start no child.
    assert(os.execute(("{ echo a > '%s'; } &"):format(path)))
    local reader <close> = assert(gzip.open(path))
    assert.is_nil(reader:taken())
    assert.equal("a", reader:line())
    assert.is_nil(reader:taken())
  end)

  it("gives several lines at once", function()
    local reader <close> = gzip.open(file("a\nb\nc\n"))
    assert.same({ "a", "b" }, reader:lines(2))
    assert.same({ "c" }, reader:lines(2))
    assert.is_nil((reader:lines(2)))
    assert.equal(1, select("#", reader:lines(2)))
  end)

  it("tells a file that ends inside its stream, after its last whole line", function()
    local text = {}
    for i = 1, 50000 do text[i] = tostring(i * 2654435761 % 4294967296) end
    local packed = gzip.pack(table.concat(text, "\n") .. "\n")
    local path = file(packed:sub(1, #packed // 2))
    local lines, message, code, number = read_all(path)
    assert.equal("TRUNCATED", code)
    assert.equal(("gzip: TRUNCATED: %s: after line %d: the file ends inside its gzip stream")
      :format(path, number), message)
    assert.equal(number, #lines)
    assert.is_true(#lines > 1000 and #lines < 50000)
    assert.same(table.move(text, 1, #lines, 1, {}), lines)
  end)

  it("tells even a missing checksum", function()
    local packed = gzip.pack("a\nb\n")
    local _, _, code = read_all(file(packed:sub(1, -2)))
    assert.equal("TRUNCATED", code)
  end)

  it("tells damaged bytes", function()
    local packed = gzip.pack(("some text that repeats\n"):rep(10))
    local damaged = packed:sub(1, -9) .. "\0\0\0\0" .. packed:sub(-4)
    local _, message, code = read_all(file(damaged))
    assert.equal("CORRUPT", code)
    assert.matches("^gzip: CORRUPT: .*/file: after line %d+: ", message)
  end)

  it("tells a failure after the lines before it, again and again", function()
    local packed = gzip.pack(("x\n"):rep(10))
    local reader <close> = gzip.open(file(packed:sub(1, -9) .. "\0\0\0\0" .. packed:sub(-4)))
    local got = 0
    local lines, _, code
    repeat
      lines, _, code = reader:lines(4)
      got = got + (lines and #lines or 0)
    until not lines
    assert.equal("CORRUPT", code)
    assert.equal("CORRUPT", (select(3, reader:lines(4))))
    assert.equal("CORRUPT", (select(3, reader:line())))
  end)

  it("tells a line over the limit, and takes one at the limit", function()
    assert.same({ "12345", "x" }, (read_all(file("12345\nx\n"), { max_line = 5 })))
    local path = file("a\n123456\n")
    local lines, message, code = read_all(path, { max_line = 5 })
    assert.same({ "a" }, lines)
    assert.equal("TOOLONG", code)
    assert.equal("gzip: TOOLONG: " .. path .. ": line 2 is longer than the limit", message)
  end)

  it("tells a missing file and a folder", function()
    local reader, message, code = gzip.open(folder .. "/none")
    assert.is_nil(reader)
    assert.equal("NOENT", code)
    assert.equal("gzip: NOENT: " .. folder .. "/none: No such file or directory", message)
    assert.equal("ISDIR", (select(3, gzip.open(folder))))
  end)

  it("closes twice, is refused afterwards, and is collected open", function()
    local path = file("a\n")
    local reader = gzip.open(path)
    reader:close()
    reader:close()
    assert.has_error(function() reader:line() end, "attempt to use a closed line reader")
    gzip.open(path)
    collectgarbage()
    assert.error_matches(function() gzip.open(path, { max = 1 }) end, "unknown option 'max'")
  end)
end)
