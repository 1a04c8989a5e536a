// Reading a plan from the outside in: JSON, version, parameters, mesh, recipe; then the rules, which name what stands in these.
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <tuple>

#include "compiler/plan/parameters.h"
#include "compiler/plan/plan_reader.h"
#include "compiler/plan/recipe_reader.h"
#include "compiler/support/strings.h"

namespace sscc {

namespace {

// What a plan's mesh may have: device numbers are 32-bit, and a typing error should not cost a machine's memory.
constexpr int64_t most_devices = int64_t{1} << 20;

// Reports in the order of the text, file by file, what the readers found in theirs.
void report_in_order(const Diagnostics& found, Diagnostics& diagnostics) {
  std::vector<Diagnostic> sorted = found.all();
  std::stable_sort(sorted.begin(), sorted.end(), [](const Diagnostic& a, const Diagnostic& b) {
    return std::tie(a.where.file, a.where.line, a.where.column) < std::tie(b.where.file, b.where.line, b.where.column);
  });
  for (Diagnostic& d : sorted) diagnostics.error(d.code, std::move(d.where), std::move(d.message), std::move(d.advice), std::move(d.node));
}

std::string beside(const std::string& file, const std::string& path) {
  size_t slash = file.rfind('/');
  return path.front() == '/' || slash == std::string::npos ? path : file.substr(0, slash + 1) + path;
}

}  // namespace

// -- files ----------------------------------------------------------------------------------------------------------------------------------------

std::string read_file(const std::string& path) {
  const bool is_standard_input = path == "-";
  auto close = [&](std::FILE* file) {
    if (!is_standard_input) std::fclose(file);
  };
  std::unique_ptr<std::FILE, decltype(close)> file(is_standard_input ? stdin : std::fopen(path.c_str(), "rb"), close);
  const std::string name = is_standard_input ? "standard input" : path;
  if (!file) throw EnvironmentError("cannot open " + quoted(name) + ": " + std::strerror(errno));
  std::string text;
  char block[1 << 14];
  size_t got = 0;
  while ((got = std::fread(block, 1, sizeof block, file.get())) > 0) text.append(block, got);
  if (std::ferror(file.get())) throw EnvironmentError("cannot read " + quoted(name) + ": " + std::strerror(errno));
  return text;
}

PlanAndRecipe read_plan(const std::string& plan_file, const std::string& recipe_file, const Settings& settings, const Module& module,
                        Diagnostics& diagnostics) {
  return read_plan_text(read_file(plan_file), plan_file, recipe_file, settings, module, diagnostics);
}

PlanAndRecipe read_plan_text(std::string_view text, const std::string& file, const std::string& recipe_file, const Settings& settings,
                             const Module& module, Diagnostics& diagnostics, const FileReader& read) {
  Diagnostics found;
  JsonDocument document(text, file, found);
  PlanAndRecipe result;
  if (document.ok()) result = PlanReader(document, module, found).read(recipe_file, settings, read);
  result.plan.file = file;
  result.plan.text = text;
  report_in_order(found, diagnostics);
  return result;
}

Recipe read_recipe_text(std::string_view text, const std::string& file, const Module& module, Diagnostics& diagnostics) {
  JsonDocument document(text, file, diagnostics);
  Recipe recipe;
  if (document.ok()) recipe = RecipeReader(document, module, diagnostics).read(document.root());
  recipe.file = file;
  recipe.text = text;
  return recipe;
}

// -- the plan -------------------------------------------------------------------------------------------------------------------------------------

PlanAndRecipe PlanReader::read(const std::string& recipe_file, const Settings& settings, const FileReader& read) {
  JsonValue& root = plan_document_.root();
  if (!expect_object(root, language::plan, "a plan: an object with 'version', 'mesh', 'transform', ..")) return std::move(result_);
  if (!read_version(root)) return std::move(result_);

  const size_t errors_before = diagnostics_.all().size();
  Parameters parameters(document_, settings, diagnostics_);
  for (size_t i = 0; i < root.items.size(); ++i)
    if (root.keys[i].name != "params") parameters.substitute(root.items[i]);
  result_.plan.params = parameters.texts();
  // What is left of ${name} would only be reported again as something else.
  if (diagnostics_.all().size() > errors_before) return std::move(result_);

  auto read_part = [&](const char* key, void (PlanReader::*part)(const JsonValue&)) {
    if (const JsonValue* value = root.find(key)) (this->*part)(*value);
  };
  if (const JsonValue* name = root.find("name")) result_.plan.name = expect_string(*name).value_or("");
  read_part("mesh", &PlanReader::read_mesh);
  read_recipe(root.find("train"), recipe_file, read);
  read_part("transform", &PlanReader::collect_other_meshes);
  read_part("assign", &PlanReader::collect_other_meshes);
  read_part("transform", &PlanReader::read_transform);
  read_part("assign", &PlanReader::read_assign);
  if (!mesh_given_) make_mesh_of_device_numbers();
  read_part("order", &PlanReader::read_order);
  read_part("communication", &PlanReader::read_communication);
  read_part("memory_limit", &PlanReader::read_memory_limit);
  read_precision(root);
  return std::move(result_);
}

bool PlanReader::read_version(const JsonValue& root) {
  const JsonValue* version = expect_key(root, "version", "write \"version\": 1");
  if (!version) return true;
  return expect_integer(*version, 1, 1, "version 1, which is what this version of sscc reads").has_value();
}

void PlanReader::read_mesh(const JsonValue& value) {
  mesh_given_ = true;
  mesh_readable_ = false;
  if (!value.is(Kind::object)) return wrong_type(value, "an object of axes and their lengths");
  int64_t devices = 1;
  bool good = true;
  for (size_t i = 0; i < value.items.size(); ++i) {
    auto length = expect_integer(value.items[i], 1, most_devices, "the length of a mesh axis, an integer of at least 1");
    good = good && length;
    if (!length) continue;
    result_.plan.mesh.axes.push_back({value.keys[i].name, *length});
    result_.plan.mesh_axis_where.push_back(at(value.items[i]));
    devices *= *length;
    if (devices <= most_devices) continue;
    error(Code::wrong_type, at(value), "the mesh has more than " + std::to_string(most_devices) + " devices");
    good = false;
    break;
  }
  mesh_readable_ = good;
}

void PlanReader::read_recipe(const JsonValue* value, const std::string& recipe_file, const FileReader& read) {
  const bool is_path = value && value->is(Kind::string) && !value->string.empty();
  if (value && !is_path && !value->is(Kind::object) && !value->is(Kind::null)) wrong_type(*value, "a recipe: an object, or the path of its file");
  if (!recipe_file.empty()) {
    result_.recipe = read_recipe_text(read(recipe_file), recipe_file, module_, diagnostics_);
  } else if (is_path) {
    const std::string path = beside(document_.file(), value->string);
    result_.recipe = read_recipe_text(read(path), path, module_, diagnostics_);
  } else if (value && value->is(Kind::object)) {
    result_.recipe = RecipeReader(document_, module_, diagnostics_).read(*value);
  }
}

// -- small parts ----------------------------------------------------------------------------------------------------------------------------------

void PlanReader::read_memory_limit(const JsonValue& value) {
  result_.plan.memory_limit_where = at(value);
  if (!value.is(Kind::array)) {
    if (auto bytes = expect_bytes(value)) result_.plan.memory_limit = {*bytes};
    return;
  }
  for (const JsonValue& item : value.items)
    if (auto bytes = expect_bytes(item)) result_.plan.memory_limit.push_back(*bytes);
  int64_t devices = result_.plan.mesh.size();
  if (mesh_readable_ && static_cast<int64_t>(value.items.size()) != devices)
    error(Code::wrong_type, at(value), std::to_string(value.items.size()) + " memory limits for " + std::to_string(devices) + " devices",
          "give one for each device, or one for all");
}

void PlanReader::read_precision(const JsonValue& root) {
  const JsonValue* value = root.find("precision");
  if (!value) return;
  result_.plan.precision_where = at(*value);
  auto precision = expect_word(*value, language::precisions);
  if (precision == "bf16") result_.plan.precision = DType::bf16;
  if (precision == "f16") result_.plan.precision = DType::f16;
}

bool PlanReader::read_when(const JsonValue& rule) {
  const JsonValue* when = rule.find("when");
  return !when || expect_boolean(*when).value_or(true);
}

void PlanReader::refuse_other_keys(const JsonValue& rule, const language::Keys& keys, const char* kind, const std::vector<std::string>& allowed) {
  auto has = [](const std::vector<std::string>& list, const std::string& key) { return std::find(list.begin(), list.end(), key) != list.end(); };
  for (size_t i = 0; i < rule.keys.size(); ++i) {
    const std::string& key = rule.keys[i].name;
    if (!has(keys.keys, key) || has(allowed, key)) continue;  // what the language lacks is reported already
    error(Code::unknown_key, document_.locate_key(rule, i), quoted(key) + " does not go with " + kind,
          "the keys of such a rule are " + join(allowed, ", "));
  }
}

}  // namespace sscc
