local digest = require "host.digest"
local process = require "host.process"

local ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
local EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

describe("a digest", function()
  it("is the SHA-256 of the standard's examples", function()
    assert.equal(EMPTY, digest.sha256_hex(""))
    assert.equal(ABC, digest.sha256_hex("abc"))
    assert.equal("248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
      digest.sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"))
    assert.equal("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
      digest.sha256_hex(("a"):rep(1000000)))
  end)

  it("is the same in pieces", function()
    local d = digest.sha256()
    assert.equal(ABC, d:add("a"):add(""):add("bc"):hex())
    assert.has_error(function() d:add("x") end, "attempt to use a closed digest")
    d:close()
  end)

  it("is the same over a file, also one longer than a piece", function()
    local dir = assert(process.mkdtemp("/tmp/tidemill-digest-"))
    local path = dir .. "/a"
    local text = ("0123456789abcdef"):rep(20000) .. "\0end"
    assert(process.atomic_write(path, text, { sync = false }))
    assert.equal(digest.sha256_hex(text), digest.file(path))
    os.remove(path)
    local hex, message, code = digest.file(path)
    assert.is_nil(hex)
    assert.equal("digest: ENOENT: " .. path .. ": No such file or directory", message)
    assert.equal("ENOENT", code)
    assert(os.remove(dir))
  end)

  it("cannot be taken of a folder", function()
    assert.equal("EISDIR", select(3, digest.file("/")))
  end)
end)

describe("random_hex", function()
  it("gives two digits a byte, others each time", function()
    local seen = {}
    for _ = 1, 100 do
      local text = digest.random_hex(16)
      assert.matches("^" .. ("[0-9a-f]"):rep(32) .. "$", text)
      assert.is_nil(seen[text])
      seen[text] = true
    end
  end)

  it("refuses none and too many", function()
    assert.has_error(function() digest.random_hex(0) end,
      "bad argument #1 to 'random_hex' (must be 1..1024)")
    assert.has_error(function() digest.random_hex(1025) end)
  end)
end)
