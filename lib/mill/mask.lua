--- Hides secrets in text that people or files will see: logs, errors, history,
-- bundles. Nothing is hidden by chance: what looks like a password is, and every
-- value that was named to `hide`.

local expect = require "mill.expect"

local M = {}

local secrets = {} -- values never to be shown, longest first

local SENSITIVE = { -- patterns, for names in lower case with . and - as _
  "passw", "pwd", "secret", "token", "api_?key", "credential", "private_?key", "authorization",
}

--- Whether an option or variable of this name holds a secret. Names of files
-- that hold one (`..._file`) do not.
function M.is_secret(name)
  local low = tostring(name):lower():gsub("[%.%-]", "_")
  if low:find("_file$") or low:find("_location$") then
    return false
  end
  for _, word in ipairs(SENSITIVE) do
    if low:find(word) then
      return true
    end
  end
  return false
end

--- Whether an option of librdkafka holds a secret.
function M.is_secret_option(name)
  expect.a("string", name, "name")
  return M.is_secret(name) or name:find("pem") ~= nil or name:find("oauth") ~= nil
    or name:find("jaas") ~= nil
end

--- Remember a secret value: `mask` hides it wherever it appears.
function M.hide(value)
  if type(value) ~= "string" or #value < 4 then
    return -- hiding "a" everywhere would only spoil the text
  end
  for _, known in ipairs(secrets) do
    if known == value then
      return
    end
  end
  secrets[#secrets + 1] = value
  table.sort(secrets, function(a, b) return #a > #b end)
end

local function replace_all(text, value)
  local out, from = {}, 1
  while true do
    local at, stop = text:find(value, from, true)
    if not at then
      out[#out + 1] = text:sub(from)
      return table.concat(out)
    end
    out[#out + 1] = text:sub(from, at - 1) .. "***"
    from = stop + 1
  end
end

local function mask_assignment(name, between, value)
  if M.is_secret(name) and value ~= "" then
    return name .. between .. "***"
  end
end

--- `text` with passwords hidden: in URLs, after `password=` and its like, after
-- `identified by`, and every value given to `hide`.
function M.mask(text)
  text = tostring(text)
  -- The patterns begin at a word's first letter: else a long word takes the square of its length.
  for _, value in ipairs(secrets) do
    text = replace_all(text, value)
  end
  text = text:gsub("([%w+.-]://[^%s:/@]*:)[^%s/@]+@", "%1***@")
  text = text:gsub("%f[%w_.%-]([%w_.%-]+)(%s*[=:]%s*\")([^\"]*)", mask_assignment)
  text = text:gsub("%f[%w_.%-]([%w_.%-]+)(%s*[=:]%s*')([^']*)", mask_assignment)
  text = text:gsub("%f[%w_.%-]([%w_.%-]+)([\"']%]?%s*[=:]%s*[\"'])([^\"']*)", mask_assignment)
  text = text:gsub("%f[%w_.%-]([%w_.%-]+)(%s*=%s*)([^%s\"',;)}]+)", mask_assignment)
  text = text:gsub("([Ii][Dd][Ee][Nn][Tt][Ii][Ff][Ii][Ee][Dd]%s+[Bb][Yy]%s+['\"])[^'\"]*", "%1***")
  return text
end

return M
