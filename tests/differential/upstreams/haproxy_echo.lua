-- Responds with the request as HAProxy parsed it; ../echo.py describes the form.
local connections, total = 0, 0

local function hex(bytes)
    return (bytes:gsub(".", function(byte) return string.format("%02x", byte:byte()) end))
end

local function respond(applet, text, parsed)
    applet:set_status(200)
    applet:add_header("content-length", tostring(#text))
    if parsed then
        applet:add_header("x-parsed", parsed)
    end
    applet:start_response()
    applet:send(text)
end

-- Returns the field lines, sorted by name. Lines of one name keep their order.
local function sorted_fields(block)
    local lines = {}
    for line in block:gmatch("(.-)\r\n") do
        if line ~= "" then
            local name, value = line:match("^([^:]*): ?(.*)$")
            lines[#lines + 1] = { name = name:lower(), value = value, at = #lines }
        end
    end
    table.sort(lines, function(a, b)
        if a.name == b.name then return a.at < b.at end
        return a.name < b.name
    end)
    return lines
end

core.register_service("echo", "http", function(applet)
    local target = applet:get_var("txn.url")
    if target == "/.totals" then
        return respond(applet, tostring(total))
    end
    local index = (applet:get_var("sess.requests") or 0) + 1
    applet:set_var("sess.requests", index)
    local connection = applet:get_var("sess.connection")
    if connection == nil then
        connections = connections + 1
        connection = connections
        applet:set_var("sess.connection", connection)
    end
    local block = applet:get_var("txn.fields")
    local body = applet:receive() or ""
    total = total + 1
    local form = { applet.method, " ", target, "\n" }
    for _, line in ipairs(sorted_fields(block)) do
        form[#form + 1] = line.name .. ": " .. line.value .. "\n"
    end
    form[#form + 1] = "\n" .. #body .. " " .. hex(applet.c:sha1(body)) .. "\n"
    form = table.concat(form)
    respond(applet, form, connection .. " " .. index .. " " .. hex(applet.c:sha1(form)))
end)
