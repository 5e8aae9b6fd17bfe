-- Responds with the request as nginx parsed it; ../echo.py describes the form.
local totals = ngx.shared.totals

local function digest(bytes)
    return (ngx.sha1_bin(bytes):gsub(".", function(byte)
        return string.format("%02x", byte:byte())
    end))
end

if ngx.var.request_uri == "/.totals" then
    ngx.print(totals:get("requests") or 0)
    return ngx.exit(200)
end

ngx.req.read_body()
local body = ngx.req.get_body_data() or ""
totals:incr("requests", 1, 0)

local fields = ngx.req.get_headers(0, true)
local names = {}
for name in pairs(fields) do
    names[#names + 1] = name
end
-- By bytes: the comparison of strings follows the locale, which is C here.
table.sort(names, function(a, b) return a:lower() < b:lower() end)
local form = { ngx.req.get_method(), " ", ngx.var.request_uri, "\n" }
for _, name in ipairs(names) do
    local values = fields[name]
    for _, value in ipairs(type(values) == "table" and values or { values }) do
        form[#form + 1] = name:lower() .. ": " .. value .. "\n"
    end
end
form[#form + 1] = "\n" .. #body .. " " .. digest(body) .. "\n"
form = table.concat(form)

ngx.header["x-parsed"] = ngx.var.connection .. " " .. ngx.var.connection_requests .. " "
    .. digest(form)
ngx.header["content-length"] = #form
ngx.print(form)
return ngx.exit(200)
