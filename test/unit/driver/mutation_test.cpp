// The checkers are checked: good programs are accepted, and programs that were damaged in one place are refused, for every kind of damage.
#include <catch2/catch.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <set>

#include "compiler/driver/compile.h"
#include "compiler/program/check.h"

namespace sscc {
namespace {

using Random = std::mt19937;

const std::string data = std::string(SSCC_SOURCE_DIR) + "/test/data/";

// -- good programs ----------------------------------------------------------------------------------------------------------------------------------

struct Fixture {
  const char* model;  // below test/data
  const char* plan;
};

const Fixture fixtures[] = {
    {"models/mlp", R"({"mesh": {"dp": 2}, "transform": [{"axis": "x:0", "split": "dp"}]})"},
    {"models/mlp", R"({"mesh": {"dp": 4}, "transform": [{"axis": "x:0", "split": "dp"}, {"axis": "x:0", "split": {"time": 2}}]})"},
    {"models/mlp", R"({"mesh": {"tp": 2}, "transform": [{"axis": "fc1.weight:0", "split": "tp"}]})"},
    {"models/mlp", R"({"mesh": {"a": 2, "b": 2}, "transform": [{"axis": "x:0", "split": "a"}, {"axis": "fc2.weight:0", "split": "b"}]})"},
    {"models/mlp", R"({"mesh": {"pp": 2}, "transform": [{"axis": "x:0", "split": {"time": 4}}],
                       "assign": [{"stages": "pp", "cut_before": ["/fc3/Gemm"]}], "order": {"schedule": "1f1b"}})"},
    {"models/mlp", R"({"mesh": {"pp": 2, "dp": 2}, "transform": [{"axis": "x:0", "split": {"time": 2}}, {"axis": "x:0", "split": "dp"}],
                       "assign": [{"stages": "pp", "cut_before": ["/fc2/Gemm"]}], "order": {"schedule": "gpipe"}})"},
    {"models/mlp", R"({"mesh": {"dp": 2}, "transform": [{"axis": "x:0", "split": "dp"}, {"ops": {"phase": "update"}, "dim": "d0", "split": "dp"}]})"},
    {"models/gpt", R"({"mesh": {"dp": 2}, "transform": [{"axis": "input_ids:0", "split": "dp"}]})"},
    {"models/gpt",
     R"({"mesh": {"tp": 2}, "transform": [{"axis": "layers.*.mlp.up.weight:1", "split": "tp"}, {"axis": "*/Softmax:-3", "split": "tp"}]})"},
    {"models/gpt", R"({"mesh": {"tp": 2}, "transform": [{"axis": "wte.weight:0", "split": "tp"}, {"axis": "*/Softmax:-3", "split": "tp"}]})"},
    {"models/gpt", R"({"mesh": {"cp": 2}, "transform": [{"axis": "input_ids:1", "split": "cp"}]})"},
    {"models/gpt", R"({"mesh": {"tp": 3}, "transform": [{"axis": "*/Softmax:-3", "split": "tp"}]})"},
    {"models/gpt", R"({"mesh": {"pp": 2}, "transform": [{"axis": "input_ids:0", "split": {"time": 4}}],
                       "assign": [{"stages": "pp", "cut_before": ["/layers.2/*"]}], "order": {"schedule": "1f1b"}})"},
    {"models/gpt",
     R"({"mesh": {"pp": 2, "tp": 2}, "transform": [{"axis": "input_ids:0", "split": {"time": 2}}, {"axis": "layers.*.mlp.up.weight:1", "split": "tp"},
                       {"axis": "wte.weight:0", "split": "tp"}],
                       "assign": [{"stages": "pp", "cut_before": ["/layers.1/*"]}], "order": {"schedule": "1f1b"}})"},
    {"models/gpt", R"({"mesh": {"dp": 3}, "transform": [{"axis": "input_ids:0", "split": {"over": "dp", "sizes": [1, 6, 1]}}]})"},
    {"models/gpt", R"({"mesh": {"d": 3}, "transform": [{"ops": "/layers.2/mlp/up/MatMul", "dim": "n", "split": {"time": 3}}],
                       "assign": [{"ops": "/layers.2/mlp/up/MatMul", "on": [2, 2, 1]}, {"ops": "/layers.0/*", "on": 1}]})"},
    {"models/gpt", R"({"mesh": {"tp": 2}, "transform": [{"ops": "/layers.*/attn/proj/MatMul", "dim": "k", "split": "tp"}]})"},
    {"models/triplane_ar", R"({"mesh": {"dp": 2}, "transform": [{"axis": "class_id:0", "split": "dp"}]})"},
    {"models/triplane_ar",
     R"({"mesh": {"dp": 2}, "transform": [{"axis": "class_id:0", "split": "dp"}, {"axis": "class_id:0", "split": {"time": 2}}]})"},
    {"models/mlp", R"({"mesh": {"d": 2}, "assign": [{"ops": "/fc2/*", "on": 1}]})"},
};

Compilation compiled(const Fixture& fixture) {
  const std::filesystem::path plan = std::filesystem::temp_directory_path() / ("sscc_mutation_" + std::to_string(getpid()) + ".json");
  std::ofstream(plan) << R"({"version": 1, )" << std::string(fixture.plan).substr(1);
  Request request;
  request.model = data + fixture.model + "/model.onnx";
  request.recipe = data + fixture.model + "/train.json";
  request.plan = plan;
  Compilation c;
  Diagnostics diagnostics;
  const bool is_good = compile(request, c, diagnostics);
  std::filesystem::remove(plan);
  for (const Diagnostic& diagnostic : diagnostics.all())
    if (diagnostic.severity == Severity::error) UNSCOPED_INFO(to_text(diagnostic));
  CHECK(is_good);
  return c;
}

// The first refusal of the three checkers, empty: all accept.
std::string refusal_of(const Compilation& c, const Programs& programs) {
  Diagnostics diagnostics;
  const bool is_good = check_deadlock(programs, diagnostics) && check_lineage(c.module, programs, diagnostics) &&
                       check_memory(programs, diagnostics) && check_races(programs, diagnostics);
  return is_good ? "" : to_text(diagnostics.all().front());
}

// -- damage -----------------------------------------------------------------------------------------------------------------------------------------

// An instruction of a rank.
struct Site {
  size_t rank = 0, segment = 0, instruction = 0;
};

// One program under damage. A rank that is changed gets a body of its own.
class Patient {
 public:
  Patient(const Programs& programs, Random& random) : programs(programs), random_(random) {}

  Programs programs;

  size_t below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }
  const Body& body(size_t rank) const { return programs.bodies[static_cast<size_t>(programs.ranks[rank].body)]; }
  Body& own(size_t rank) {
    programs.bodies.push_back(Body(body(rank)));
    programs.ranks[rank].body = static_cast<int32_t>(programs.bodies.size()) - 1;
    return programs.bodies.back();
  }
  std::vector<Instruction>& own_list(const Site& site) { return own(site.rank).segments[site.segment].instructions; }
  Instruction& own_at(const Site& site) { return own_list(site)[site.instruction]; }
  const Instruction& at(const Site& site) const { return body(site.rank).segments[site.segment].instructions[site.instruction]; }

  // A random instruction that fits, of a segment that runs.
  std::optional<Site> find(const std::function<bool(const Instruction&)>& fits) {
    std::vector<Site> all;
    for (size_t r = 0; r < programs.ranks.size(); ++r) {
      std::set<int32_t> runs;
      for (const ProgramSlot& slot : body(r).schedule) runs.insert(slot.segment);
      for (const int32_t s : runs)
        for (size_t i = 0; i < body(r).segments[static_cast<size_t>(s)].instructions.size(); ++i)
          if (fits(body(r).segments[static_cast<size_t>(s)].instructions[i])) all.push_back({r, static_cast<size_t>(s), i});
    }
    if (all.empty()) return std::nullopt;
    return all[below(all.size())];
  }
  std::optional<Site> find(Opcode opcode) {
    return find([&](const Instruction& i) { return i.opcode == opcode; });
  }

 private:
  Random& random_;
};

bool is_collective(const Instruction& i) {
  return i.opcode == Opcode::all_reduce || i.opcode == Opcode::all_gather || i.opcode == Opcode::reduce_scatter;
}
bool is_kernel(const Instruction& i) { return i.op.valid() && i.opcode != Opcode::capture; }

template <class Expression>
std::function<bool(const Instruction&)> has() {
  return [](const Instruction& i) { return std::holds_alternative<Expression>(i.expression); };
}

// Waits name instructions by their place: they go with them.
void erase(std::vector<Instruction>& list, size_t at) {
  list.erase(list.begin() + static_cast<std::ptrdiff_t>(at));
  for (Instruction& i : list) {
    llvm::erase_if(i.waits, [&](int32_t other) { return other == static_cast<int32_t>(at); });
    for (int32_t& other : i.waits) other -= other > static_cast<int32_t>(at);
  }
}
void insert(std::vector<Instruction>& list, size_t at, Instruction instruction) {
  list.insert(list.begin() + static_cast<std::ptrdiff_t>(at), std::move(instruction));
  for (size_t i = at + 1; i < list.size(); ++i)
    for (int32_t& other : list[i].waits) other += other >= static_cast<int32_t>(at);
}

bool drop(Patient& p, const std::optional<Site>& site) {
  if (!site) return false;
  erase(p.own_list(*site), site->instruction);
  return true;
}
bool repeat(Patient& p, const std::optional<Site>& site) {
  if (!site) return false;
  auto& list = p.own_list(*site);
  insert(list, site->instruction, Instruction(list[site->instruction]));
  return true;
}
template <class Change>
bool change(Patient& p, const std::optional<Site>& site, const Change& change) {
  if (!site) return false;
  change(p.own_at(*site));
  return true;
}
// The same instruction of all ranks that have it: a change that agrees with itself.
template <class Change>
bool change_everywhere(Patient& p, const std::optional<Site>& site, const Change& change) {
  if (!site) return false;
  const Instruction sample = p.at(*site);
  const int32_t transfer = std::get<Communication>(sample.expression).transfer;
  for (size_t r = 0; r < p.programs.ranks.size(); ++r)
    for (ProgramSegment& segment : p.own(r).segments)
      for (size_t i = 0; i < segment.instructions.size(); ++i) {
        const auto* communication = std::get_if<Communication>(&segment.instructions[i].expression);
        if (communication && communication->transfer == transfer && segment.instructions[i].opcode == sample.opcode)
          i += change(segment.instructions, i);
      }
  return true;
}

// Swaps two communications of a rank that stand one after the other (with whatever lies between).
bool swap_neighbours(Patient& p, const std::function<bool(const Instruction&)>& fits) {
  const auto site = p.find(fits);
  if (!site) return false;
  auto& list = p.own_list(*site);
  for (size_t i = site->instruction + 1; i < list.size(); ++i) {
    if (!fits(list[i])) continue;
    std::swap(list[site->instruction], list[i]);
    return true;
  }
  return false;
}

struct Damage {
  const char* name;
  std::function<bool(Patient&)> apply;  // false: the program has no place for it
};

const std::vector<Damage>& damages() {
  static const std::vector<Damage> all = {
      {"a send is dropped", [](Patient& p) { return drop(p, p.find(Opcode::send)); }},
      {"a receive is dropped", [](Patient& p) { return drop(p, p.find(Opcode::receive)); }},
      {"a send is doubled", [](Patient& p) { return repeat(p, p.find(Opcode::send)); }},
      {"a collective is dropped on one rank", [](Patient& p) { return drop(p, p.find(is_collective)); }},
      {"a collective is dropped everywhere",
       [](Patient& p) {
         return change_everywhere(p, p.find(is_collective), [](std::vector<Instruction>& list, size_t i) {
           erase(list, i);
           return -1;
         });
       }},
      {"an all-reduce is doubled everywhere",
       [](Patient& p) {
         return change_everywhere(p, p.find(Opcode::all_reduce), [](std::vector<Instruction>& list, size_t i) {
           insert(list, i, Instruction(list[i]));
           return 1;
         });
       }},
      {"a message gets another number",
       [](Patient& p) { return change(p, p.find(Opcode::send), [](Instruction& i) { std::get<Communication>(i.expression).transfer += 7; }); }},
      {"a message goes to another rank",
       [](Patient& p) {
         const auto site = p.find(Opcode::send);
         if (!site || p.programs.ranks.size() < 3) return false;
         int32_t& peer = p.programs.ranks[site->rank].constants.peers[static_cast<size_t>(std::get<Communication>(p.at(*site).expression).peer)];
         const int32_t right = peer;
         do peer = static_cast<int32_t>(p.below(p.programs.ranks.size()));
         while (peer == static_cast<int32_t>(site->rank) || peer == right);
         return true;
       }},
      {"a group loses a member",
       [](Patient& p) {
         const auto site = p.find(is_collective);
         if (!site) return false;
         auto& group = p.programs.ranks[site->rank].constants.groups[static_cast<size_t>(std::get<Communication>(p.at(*site).expression).group)];
         std::erase_if(group, [&](int32_t member) { return member != static_cast<int32_t>(site->rank) && group.size() > 1; });
         return true;
       }},
      {"a sum is joined as a maximum",
       [](Patient& p) {
         return change_everywhere(p, p.find(Opcode::all_reduce), [](std::vector<Instruction>& list, size_t i) {
           std::get<Communication>(list[i].expression).join = Join::max;
           return 0;
         });
       }},
      {"two collectives of one rank cross", [](Patient& p) { return swap_neighbours(p, is_collective); }},
      {"a kernel is dropped", [](Patient& p) { return drop(p, p.find(is_kernel)); }},
      {"a copy is dropped", [](Patient& p) { return drop(p, p.find([](const Instruction& i) { return i.opcode == Opcode::copy; })); }},
      {"a kernel that adds is repeated", [](Patient& p) { return repeat(p, p.find([](const Instruction& i) { return i.accumulate; })); }},
      {"a kernel that adds overwrites",
       [](Patient& p) {
         return change(p, p.find([](const Instruction& i) { return i.accumulate && is_kernel(i); }), [](Instruction& i) { i.accumulate = false; });
       }},
      {"a kernel that overwrites adds",
       [](Patient& p) {
         return change(p, p.find([](const Instruction& i) {
           return !i.accumulate && (i.opcode == Opcode::contract || i.opcode == Opcode::reduce) && is_kernel(i);
         }),
                       [](Instruction& i) { i.accumulate = true; });
       }},
      {"the zeros before a sum are dropped", [](Patient& p) { return drop(p, p.find(Opcode::fill)); }},
      {"a product is rescaled",
       [](Patient& p) {
         return change(p, p.find(has<ContractExpression>()), [](Instruction& i) { std::get<ContractExpression>(i.expression).scale *= 0.5; });
       }},
      {"a mean is rescaled",
       [](Patient& p) {
         return change(p, p.find(has<ReduceExpression>()), [](Instruction& i) { std::get<ReduceExpression>(i.expression).scale *= 2; });
       }},
      {"a pointwise constant is changed",
       [](Patient& p) {
         return change(p, p.find(has<PointwiseExpression>()),
                       [](Instruction& i) { std::get<PointwiseExpression>(i.expression).steps[0].alpha += 1; });
       }},
      {"a pointwise step reads another operand",
       [](Patient& p) {
         return change(p, p.find([](const Instruction& i) {
           const auto* e = std::get_if<PointwiseExpression>(&i.expression);
           return e && e->steps[0].function == Scalar::sub;
         }),
                       [](Instruction& i) {
                         auto& step = std::get<PointwiseExpression>(i.expression).steps[0];
                         std::swap(step.args[0], step.args[1]);
                       });
       }},
      {"an optimizer's rate is changed",
       [](Patient& p) {
         return change(p, p.find(has<UpdateExpression>()), [](Instruction& i) { std::get<UpdateExpression>(i.expression).rule.lr *= 2; });
       }},
      {"an update is dropped", [](Patient& p) { return drop(p, p.find(Opcode::update)); }},
      {"an update is done twice", [](Patient& p) { return repeat(p, p.find(Opcode::update)); }},
      {"an index offset is changed",
       [](Patient& p) {
         const auto site = p.find(has<IndexExpression>());
         if (!site) return false;
         const int32_t offset = std::get<IndexExpression>(p.at(*site).expression).offset;
         if (offset < 0) return false;
         p.programs.ranks[site->rank].constants.offsets[static_cast<size_t>(offset)] += 1;
         return true;
       }},
      {"a parameter's region is loaded from elsewhere",
       [](Patient& p) {
         const size_t rank = p.below(p.programs.ranks.size());
         for (int64_t b = 0; b < p.body(rank).buffers.size(); ++b) {
           const Buffer& buffer = p.body(rank).buffers[BufferId(b)];
           if (buffer.source != Buffer::Source::parameter || p.below(4) != 0) continue;
           Region& region = p.programs.ranks[rank].constants.regions[static_cast<size_t>(buffer.regions)];
           if (region.rank() == 0 || region.dim(0).length() < 2) continue;
           region.set_dim(0, Intervals(region.dim(0).begin_position() + 1, region.dim(0).end_position() + 1));
           return true;
         }
         return false;
       }},
      {"a kernel reads another part of a buffer",
       [](Patient& p) {
         return change(
             p, p.find([](const Instruction& i) { return is_kernel(i) && !i.ins.empty() && i.ins[0].dims.size() > 1 && i.ins[0].dims[0] > 1; }),
             [](Instruction& i) { i.ins[0].offset += 1; });
       }},
      {"a kernel writes another part of a buffer",
       [](Patient& p) {
         return change(p, p.find([](const Instruction& i) {
           return is_kernel(i) && i.opcode != Opcode::update && !i.outs[0].dims.empty() && i.outs[0].dims[0] > 1;
         }),
                       [](Instruction& i) { i.outs[0].offset += 1; });
       }},
      {"a kernel reads another value of the same shape",
       [](Patient& p) {
         const auto site = p.find([](const Instruction& i) { return is_kernel(i) && !i.ins.empty(); });
         if (!site) return false;
         const View& view = p.at(*site).ins[0];
         const int64_t elements = p.body(site->rank).buffers[view.buffer].elements;
         std::vector<BufferId> others;
         for (int64_t b = 0; b < p.body(site->rank).buffers.size(); ++b)
           if (BufferId(b) != view.buffer && p.body(site->rank).buffers[BufferId(b)].elements == elements) others.push_back(BufferId(b));
         if (others.empty()) return false;
         p.own_at(*site).ins[0].buffer = others[p.below(others.size())];
         return true;
       }},
      {"a message is received too late",
       [](Patient& p) {
         const auto site = p.find(Opcode::receive);
         if (!site) return false;
         auto& list = p.own_list(*site);
         Instruction moved = list[site->instruction];
         erase(list, site->instruction);
         list.push_back(std::move(moved));
         return site->instruction + 1 != list.size();
       }},
      {"a slot of the schedule is dropped",
       [](Patient& p) {
         const size_t rank = p.below(p.programs.ranks.size());
         auto& schedule = p.own(rank).schedule;
         schedule.erase(schedule.begin() + static_cast<std::ptrdiff_t>(1 + p.below(schedule.size() - 1)));
         return true;
       }},
      {"a micro-batch runs twice",
       [](Patient& p) {
         const size_t rank = p.below(p.programs.ranks.size());
         auto& schedule = p.own(rank).schedule;
         const size_t at = 1 + p.below(schedule.size() - 1);
         schedule.insert(schedule.begin() + static_cast<std::ptrdiff_t>(at), ProgramSlot(schedule[at]));
         return true;
       }},
      {"backward runs before its forward",
       [](Patient& p) {
         const size_t rank = p.below(p.programs.ranks.size());
         auto& body = p.own(rank);
         for (size_t i = 1; i + 1 < body.schedule.size(); ++i)
           if (body.schedule[i].micro_batch == body.schedule[i + 1].micro_batch) return std::swap(body.schedule[i], body.schedule[i + 1]), true;
         return false;
       }},
      {"a buffer lies on another that is live",
       [](Patient& p) {
         const size_t rank = p.below(p.programs.ranks.size());
         auto& body = p.own(rank);
         std::vector<BufferId> loaded;
         for (int64_t b = 0; b < body.buffers.size(); ++b)
           if (body.buffers[BufferId(b)].source == Buffer::Source::parameter) loaded.push_back(BufferId(b));
         if (loaded.size() < 2) return false;
         const size_t which = p.below(loaded.size() - 1);
         body.buffers[loaded[which]].offset = body.buffers[loaded[which + 1]].offset;
         return true;
       }},
      {"the arena is too small", [](Patient& p) { return p.own(p.below(p.programs.ranks.size())).arena_bytes -= 64, true; }},
      {"a value of several micro-batches has one copy less",
       [](Patient& p) {
         for (size_t rank = 0; rank < p.programs.ranks.size(); ++rank)
           for (int64_t b = 0; b < p.body(rank).buffers.size(); ++b)
             if (p.body(rank).buffers[BufferId(b)].copies > 1 && p.body(rank).buffers[BufferId(b)].source == Buffer::Source::none) {
               p.own(rank).buffers[BufferId(b)].copies -= 1;
               return true;
             }
         return false;
       }},
      {"an event is missing",
       [](Patient& p) {
         return change(p, p.find([](const Instruction& i) { return !i.waits.empty(); }),
                       [&](Instruction& i) { i.waits.erase(i.waits.begin() + static_cast<std::ptrdiff_t>(p.below(i.waits.size()))); });
       }},
      {"a stream does not wait",
       [](Patient& p) {
         return change(p, p.find([](const Instruction& i) { return i.stream > 0 && !i.waits.empty(); }), [](Instruction& i) { i.waits.clear(); });
       }},
      {"an output is handed over as another region",
       [](Patient& p) {
         const auto site = p.find([](const Instruction& i) {
           const auto* c = std::get_if<Capture>(&i.expression);
           return c && c->regions >= 0 && c->what == Capture::What::output;
         });
         if (!site) return false;
         Region& region = p.programs.ranks[site->rank].constants.regions[static_cast<size_t>(std::get<Capture>(p.at(*site).expression).regions)];
         region.set_dim(0, Intervals(region.dim(0).begin_position() + 1, region.dim(0).end_position() + 1));
         return true;
       }},
  };
  return all;
}

}  // namespace

TEST_CASE("undamaged programs are accepted, damaged ones are refused") {
  Random random(20240601);
  std::map<std::string, std::pair<int, int>> refused;  // of tried
  std::map<std::string, std::string> first_accepted;
  std::map<std::string, int> by_code;
  for (const Fixture& fixture : fixtures) {
    INFO(fixture.model << " " << fixture.plan);
    const Compilation c = compiled(fixture);
    REQUIRE(refusal_of(c, c.programs) == "");
    for (const Damage& damage : damages()) {
      for (int attempt = 0; attempt < 2; ++attempt) {
        Patient patient(c.programs, random);
        if (!damage.apply(patient)) continue;
        auto& [caught, tried] = refused[damage.name];
        ++tried;
        const std::string refusal = refusal_of(c, patient.programs);
        for (const char* code : {"SSC5001", "SSC5002", "SSC5003"}) by_code[code] += refusal.find(code) != std::string::npos;
        if (refusal.empty()) {
          first_accepted.try_emplace(damage.name, std::string(fixture.model) + " " + fixture.plan);
        } else {
          ++caught;
        }
      }
    }
  }
  for (const auto& [name, counts] : refused) {
    INFO(name << ": refused " << counts.first << " of " << counts.second << ", accepted first in " << first_accepted[name]);
    CHECK(counts.first == counts.second);
  }
  for (const auto& [code, count] : by_code) {
    INFO(code);
    CHECK(count > 0);
  }
  for (const Damage& damage : damages()) {
    INFO(damage.name << " was never tried");
    CHECK(refused[damage.name].second > 0);
  }
}

}  // namespace sscc
