-- lua charts/tiebar/ci/argocd-health.lua: the health check for Argo CD, case by case.
local folder = arg[0]:match("(.*/)") or "./"
local script = {}
for line in io.lines(folder .. "../files/argocd-health.yaml") do
  if #script > 0 or line:match("health%.tiebar") then script[#script + 1] = line:gsub("^  ", "") end
end
table.remove(script, 1)
local check = assert((loadstring or load)("local obj = ...\n" .. table.concat(script, "\n")))

local function breaker(conditions, observed, state)
  local list = {}
  for kind, status in pairs(conditions) do list[#list + 1] = {type = kind, status = status, message = kind} end
  return {metadata = {generation = 2}, status = {observedGeneration = observed, state = state, conditions = list}}
end

local cases = {
  {"not seen yet", {metadata = {generation = 1}}, "Progressing"},
  {"an older generation", breaker({Ready = "True"}, 1), "Progressing"},
  {"closed", breaker({Ready = "True", Stalled = "False"}, 2, "Closed"), "Healthy"},
  {"open, which is its work", breaker({Ready = "True"}, 2, "Open"), "Healthy"},
  {"nobody attached", breaker({Ready = "True", Attached = "False"}, 2, "Closed"), "Healthy"},
  {"forced", breaker({Ready = "True", Overridden = "True"}, 2, "ForcedOpen"), "Suspended"},
  {"no store", breaker({Ready = "False"}, 2, "Unknown"), "Degraded"},
  {"not known yet", breaker({Ready = "Unknown"}, 2), "Progressing"},
  {"a conflict", breaker({Ready = "False", Stalled = "True"}, 2), "Degraded"},
}
local failed = 0
for _, case in ipairs(cases) do
  local health = check(case[2])
  if health.status ~= case[3] or (case[1] ~= "not seen yet" and not health.message) then
    io.stderr:write(("%s: wanted %s, got %s\n"):format(case[1], case[3], tostring(health.status)))
    failed = failed + 1
  end
end
os.exit(failed == 0 and 0 or 1)
