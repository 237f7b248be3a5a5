local fault = require "mill.fault"
local settings = require "mill.settings"

describe("settings", function()
  after_each(function() settings.given {} end)

  local function refused(pairs_, defaults)
    local ok, err = pcall(function()
      settings.given(pairs_)
      settings.declare(defaults or {})
    end)
    assert.is_false(ok)
    assert.is_true(fault.is(err), tostring(err))
    assert.equal(fault.USAGE, err.status)
    return err.message
  end

  local DEFAULTS = { topic = "prices", speed = 1.0, count = 3, keyed = true, hop = "" }

  it("are the defaults when nothing was said", function()
    settings.given(nil)
    assert.same(DEFAULTS, settings.declare(DEFAULTS))
  end)

  it("take what --set says in the default's type", function()
    settings.given { "topic=a b=c", "speed=0.5", "count=12", "keyed=no", "hop=1m" }
    assert.same({ topic = "a b=c", speed = 0.5, count = 12, keyed = false, hop = "1m" },
      settings.declare(DEFAULTS))
    settings.given { "count=4", "speed=2", "keyed=1", "topic=" }
    local values = settings.declare(DEFAULTS)
    assert.equal("integer", math.type(values.count))
    assert.equal("", values.topic)
    assert.is_true(values.keyed)
    assert.equal(2, values.speed)
  end)

  it("take the last of several", function()
    settings.given { "topic=a", "topic=b" }
    assert.equal("b", settings.declare(DEFAULTS).topic)
  end)

  it("leave the defaults alone", function()
    settings.given { "topic=x" }
    settings.declare(DEFAULTS)
    assert.equal("prices", DEFAULTS.topic)
  end)

  it("refuse what is no key=value", function()
    for _, pair in ipairs { "topic", "=x", "a-b=c", "" } do
      assert.matches("key=value", refused({ pair }, DEFAULTS))
    end
  end)

  it("refuse a key that the script does not have, and name those it has", function()
    local message = refused({ "tpoic=x" }, DEFAULTS)
    assert.matches("tpoic", message)
    assert.matches("count, hop, keyed, speed, topic", message)
  end)

  it("refuse a value of another type, and name the key", function()
    for _, pair in ipairs { "count=1.5", "count=x", "count=", "speed=fast", "keyed=maybe" } do
      assert.matches("--set " .. pair:match("^%a+"), refused({ pair }, DEFAULTS), 1, true)
    end
  end)
end)
