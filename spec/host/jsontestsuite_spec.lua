-- The public JSONTestSuite: TIDEMILL_JSONTESTSUITE names its folder of .json
-- files (test_parsing). Its n_ files must be refused, its y_ files accepted;
-- what RFC 8259 leaves open (i_) is decided here.
local json = require "host.json"

local folder = os.getenv "TIDEMILL_JSONTESTSUITE"

-- Numbers have any size: it is the field's type that limits them. A lone
-- surrogate is an escape like any other as long as nobody wants the string
-- (a field that holds one is a bad row). 512 levels may be open. Bytes that
-- are not UTF-8 are never accepted; a UTF-8 byte order mark is.
local open = {
  ["i_number_double_huge_neg_exp.json"] = true,
  ["i_number_huge_exp.json"] = true,
  ["i_number_neg_int_huge_exp.json"] = true,
  ["i_number_pos_double_huge_exp.json"] = true,
  ["i_number_real_neg_overflow.json"] = true,
  ["i_number_real_pos_overflow.json"] = true,
  ["i_number_real_underflow.json"] = true,
  ["i_number_too_big_neg_int.json"] = true,
  ["i_number_too_big_pos_int.json"] = true,
  ["i_number_very_big_negative_int.json"] = true,
  ["i_object_key_lone_2nd_surrogate.json"] = true,
  ["i_string_1st_surrogate_but_2nd_missing.json"] = true,
  ["i_string_1st_valid_surrogate_2nd_invalid.json"] = true,
  ["i_string_UTF-16LE_with_BOM.json"] = false,
  ["i_string_UTF-8_invalid_sequence.json"] = false,
  ["i_string_UTF8_surrogate_U+D800.json"] = false,
  ["i_string_incomplete_surrogate_and_escape_valid.json"] = true,
  ["i_string_incomplete_surrogate_pair.json"] = true,
  ["i_string_incomplete_surrogates_escape_valid.json"] = true,
  ["i_string_invalid_lonely_surrogate.json"] = true,
  ["i_string_invalid_surrogate.json"] = true,
  ["i_string_invalid_utf-8.json"] = false,
  ["i_string_inverted_surrogates_U+1D11E.json"] = true,
  ["i_string_iso_latin_1.json"] = false,
  ["i_string_lone_second_surrogate.json"] = true,
  ["i_string_lone_utf8_continuation_byte.json"] = false,
  ["i_string_not_in_unicode_range.json"] = false,
  ["i_string_overlong_sequence_2_bytes.json"] = false,
  ["i_string_overlong_sequence_6_bytes.json"] = false,
  ["i_string_overlong_sequence_6_bytes_null.json"] = false,
  ["i_string_truncated-utf-8.json"] = false,
  ["i_string_utf16BE_no_BOM.json"] = false,
  ["i_string_utf16LE_no_BOM.json"] = false,
  ["i_structure_500_nested_arrays.json"] = true,
  ["i_structure_UTF-8_BOM_empty_object.json"] = true,
}

-- The files of `folder`, by the shell: Lua cannot list a directory.
local function list()
  local names = {}
  local pipe <close> = assert(io.popen("ls '" .. folder:gsub("'", "'\\''") .. "'"))
  for name in pipe:lines() do
    if name:match "^[yni]_.*%.json$" then names[#names + 1] = name end
  end
  return names
end

local function read(name)
  local file <close> = assert(io.open(folder .. "/" .. name, "rb"))
  return file:read "a"
end

describe("the JSONTestSuite", function()
  if not folder then
    pending "is skipped: TIDEMILL_JSONTESTSUITE does not name its test_parsing folder"
    return
  end

  local count = { y = 0, n = 0, i = 0 }

  for _, name in ipairs(list()) do
    local kind = name:sub(1, 1)
    count[kind] = count[kind] + 1
    local accepted = kind == "y"
    if kind == "i" then accepted = open[name] end
    it((accepted and "accepts " or "refuses ") .. name, function()
      local ok, message, place = json.valid(read(name))
      assert.equal(accepted, ok, message)
      if not accepted then
        assert.equal("integer", math.type(place))
        assert.matches("^byte " .. place .. ": ", message)
      end
    end)
  end

  it("is whole: 95 valid, 188 invalid and 35 open files", function()
    assert.same({ y = 95, n = 188, i = 35 }, count)
  end)
end)
