#include "test/equivalence/damage.h"

#include "test/equivalence/patient.h"

namespace sscc::equivalence {

const std::vector<Damage>& damages() {
  using Change = std::function<bool(Patient&)>;
  static const std::vector<std::pair<const char*, Change>> changes = {
      {"a send is dropped", [](Patient& p) { return drop(p, p.find(Opcode::send)); }},
      {"a receive is dropped", [](Patient& p) { return drop(p, p.find(Opcode::receive)); }},
      {"a send is doubled", [](Patient& p) { return repeat(p, p.find(Opcode::send)); }},
      {"a collective is dropped on one rank", [](Patient& p) { return drop(p, p.find(is_collective)); }},
      {"a collective is dropped everywhere",
       [](Patient& p) {
         return change_everywhere(p, p.find(is_collective), [](const Instructions& list, size_t i) {
           list.erase(i);
           return -1;
         });
       }},
      {"an all-reduce is doubled everywhere",
       [](Patient& p) {
         return change_everywhere(p, p.find(Opcode::all_reduce), [](const Instructions& list, size_t i) {
           list.insert(i, Instruction(list[i]));
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
         return change_everywhere(p, p.find(Opcode::all_reduce), [](const Instructions& list, size_t i) {
           std::get<Communication>(list[i].expression).join = Join::max;
           return 0;
         });
       }},
      {"two collectives of one rank cross", [](Patient& p) { return cross(p, p.find(is_collective), is_collective); }},
      {"two messages to one rank cross",
       [](Patient& p) {
         const auto site = p.find(Opcode::send);
         return cross(p, site, like(p, site));
       }},
      {"two messages from one rank cross",
       [](Patient& p) {
         const auto site = p.find(Opcode::receive);
         return cross(p, site, like(p, site));
       }},
      {"two messages to one rank are exchanged",
       [](Patient& p) {
         const auto site = p.find(Opcode::send);
         const auto other = site ? next(p, *site, like(p, site)) : std::nullopt;
         if (!other) return false;
         const Instructions list = p.own_list(*site);
         std::swap(std::get<Communication>(list[site->instruction].expression).transfer, std::get<Communication>(list[*other].expression).transfer);
         return true;
       }},
      {"an all-reduce becomes an all-gather", [](Patient& p) { return call_otherwise(p, Opcode::all_reduce, Opcode::all_gather); }},
      {"an all-gather becomes an all-reduce", [](Patient& p) { return call_otherwise(p, Opcode::all_gather, Opcode::all_reduce); }},
      {"a reduce-scatter becomes an all-reduce", [](Patient& p) { return call_otherwise(p, Opcode::reduce_scatter, Opcode::all_reduce); }},
      {"a reduce-scatter or an all-gather becomes an all-to-all",
       [](Patient& p) { return call_otherwise(p, p.below(2) == 0 ? Opcode::reduce_scatter : Opcode::all_gather, Opcode::all_to_all); }},
      {"a member makes another call",
       [](Patient& p) {
         return change(p, p.find(is_collective), [](Instruction& i) {
           i.opcode = i.opcode == Opcode::all_reduce ? Opcode::reduce_scatter : Opcode::all_reduce;
           i.ins.resize(1, i.outs[0]);
         });
       }},
      {"a call of several tensors falls apart on one rank",
       [](Patient& p) {
         const auto is_first = [](const Instruction& i) { return is_collective(i) && i.with_next; };
         return change(p, p.find(is_first), [](Instruction& i) { i.with_next = false; });
       }},
      {"a call takes in what comes next on one rank",
       [](Patient& p) {
         const auto is_last = [](const Instruction& i) { return is_collective(i) && !i.with_next; };
         return change(p, p.find(is_last), [](Instruction& i) { i.with_next = true; });
       }},
      {"kernels of a call are one call with what comes next",
       [](Patient& p) {
         const auto is_last = [](const Instruction& i) { return (i.opcode == Opcode::update || i.opcode == Opcode::contract) && !i.with_next; };
         return change(p, p.find(is_last), [](Instruction& i) { i.with_next = true; });
       }},
      {"a group has another order",
       [](Patient& p) {
         const auto site = p.find([](const Instruction& i) { return is_collective(i) && i.opcode != Opcode::all_reduce; });
         if (!site) return false;
         const auto right = p.programs.ranks[site->rank].constants.groups[static_cast<size_t>(std::get<Communication>(p.at(*site).expression).group)];
         for (RankProgram& rank : p.programs.ranks)
           for (auto& group : rank.constants.groups)
             if (group == right) std::reverse(group.begin(), group.end());
         return right.size() > 1;
       }},
      {"a collective reads another part of a buffer", [](Patient& p) { return shift(p, is_collective, true); }},
      {"a collective writes another buffer", [](Patient& p) { return write_elsewhere(p, is_collective); }},
      {"a broadcast comes from another member",
       [](Patient& p) {
         return change_everywhere(p, p.find(Opcode::broadcast), [](const Instructions& list, size_t i) {
           std::get<Communication>(list[i].expression).root ^= 1;
           return 0;
         });
       }},
      {"a member expects a broadcast from another",
       [](Patient& p) { return change(p, p.find(Opcode::broadcast), [](Instruction& i) { std::get<Communication>(i.expression).root ^= 1; }); }},
      {"a broadcast is received into another buffer",
       [](Patient& p) { return write_elsewhere(p, [](const Instruction& i) { return i.opcode == Opcode::broadcast && !i.outs.empty(); }); }},
      {"a message is sent from another part of a buffer", [](Patient& p) { return shift(p, is_opcode(Opcode::send), true); }},
      {"a message is received into another buffer", [](Patient& p) { return write_elsewhere(p, is_opcode(Opcode::receive)); }},
      {"a collective begins before its data is there", [](Patient& p) { return run_early(p, is_collective); }},
      {"a message is sent before its data is there", [](Patient& p) { return run_early(p, is_opcode(Opcode::send)); }},
      {"gradients are joined before the last micro-batch", [](Patient& p) { return end_at(p, [](size_t last) { return last - 1; }); }},
      {"parameters are updated before they are read", [](Patient& p) { return end_at(p, [](size_t) { return size_t{1}; }); }},
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
      {"windows begin elsewhere",
       [](Patient& p) {
         return change(p, p.find(has<WindowExpression>()), [](Instruction& i) { std::get<WindowExpression>(i.expression).window.pad[0] += 1; });
       }},
      {"windows see less",
       [](Patient& p) {
         return change(p, p.find(has<WindowExpression>()), [](Instruction& i) { std::get<WindowExpression>(i.expression).window.dilation[0] += 1; });
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
      {"a parameter is loaded from elsewhere", [](Patient& p) { return load_elsewhere(p, Buffer::Source::parameter); }},
      {"an input is loaded from elsewhere", [](Patient& p) { return load_elsewhere(p, Buffer::Source::input); }},
      {"optimizer state is kept elsewhere", [](Patient& p) { return load_elsewhere(p, Buffer::Source::state); }},
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
      {"a kernel reads another value of the same length",
       [](Patient& p) {
         const auto site = p.find([](const Instruction& i) { return is_kernel(i) && !i.ins.empty(); });
         const BufferId other = site ? p.as_long_as(site->rank, p.at(*site).ins[0].buffer) : BufferId();
         return other.valid() && change(p, site, [&](Instruction& i) { i.ins[0].buffer = other; });
       }},
      {"a copy reads another part of a buffer", [](Patient& p) { return shift(p, is_opcode(Opcode::copy), true); }},
      {"a copy writes another part of a buffer", [](Patient& p) { return shift(p, is_opcode(Opcode::copy), false); }},
      {"a square operand is read across",
       [](Patient& p) {
         return change(p, p.find([](const Instruction& i) {
           return is_kernel(i) && !i.ins.empty() && i.ins[0].dims.size() > 1 && i.ins[0].dims[0] == i.ins[0].dims[1] && i.ins[0].dims[0] > 1 &&
                  i.ins[0].strides[0] != i.ins[0].strides[1];
         }),
                       [](Instruction& i) { std::swap(i.ins[0].strides[0], i.ins[0].strides[1]); });
       }},
      {"the factors of a product are exchanged",
       [](Patient& p) {
         return change(p, p.find([](const Instruction& i) {
           return i.opcode == Opcode::contract && i.ins[0].dims == i.ins[1].dims && i.ins[0].buffer != i.ins[1].buffer;
         }),
                       [](Instruction& i) { std::swap(i.ins[0], i.ins[1]); });
       }},
      {"two results are exchanged",
       [](Patient& p) {
         return change(
             p, p.find([](const Instruction& i) { return i.opcode == Opcode::pointwise && i.outs.size() > 1 && i.outs[0].dims == i.outs[1].dims; }),
             [](Instruction& i) { std::swap(i.outs[0], i.outs[1]); });
       }},
      {"a constant is wrong on all ranks alike",
       [](Patient& p) {
         const auto site = p.find(has<PointwiseExpression>());
         if (!site) return false;
         const OpId op = std::get<PointwiseExpression>(p.at(*site).expression).ops[0].first;
         for (Body& body : p.programs.bodies)
           for (ProgramSegment& segment : body.segments)
             for (Instruction& i : segment.instructions)
               if (auto* e = std::get_if<PointwiseExpression>(&i.expression))
                 for (size_t s = 0; s < e->steps.size(); ++s)
                   if (e->ops[s].first == op) e->steps[s].beta += 1;
         return true;
       }},
      {"a product's epilogue is another",
       [](Patient& p) {
         return change(p, p.find(has<EpilogueExpression>()), [](Instruction& i) {
           rt::Scalar& function = std::get<EpilogueExpression>(i.expression).function;
           function = function == rt::Scalar::identity ? rt::Scalar::relu : rt::Scalar::identity;
         });
       }},
      {"a product is scaled otherwise before its epilogue",
       [](Patient& p) {
         return change(p, p.find(has<EpilogueExpression>()), [](Instruction& i) { std::get<EpilogueExpression>(i.expression).scale *= 2; });
       }},
      {"an addend of a product is left out",
       [](Patient& p) {
         const auto has_addend = [](const Instruction& i) {
           const auto* e = std::get_if<EpilogueExpression>(&i.expression);
           return e && (e->has_base || e->has_bias);
         };
         return change(p, p.find(has_addend), [](Instruction& i) {
           auto& e = std::get<EpilogueExpression>(i.expression);
           (e.has_base ? e.has_base : e.has_bias) = false;
           i.ins.erase(i.ins.begin() + 2);
           i.reads.erase(i.reads.begin() + 2);
         });
       }},
      {"attention is scaled otherwise",
       [](Patient& p) {
         return change(p, p.find(has<AttentionExpression>()), [](Instruction& i) { std::get<AttentionExpression>(i.expression).rule.scale *= 2; });
       }},
      {"attention keeps what it is to mask",
       [](Patient& p) {
         const auto chooses = [](const Instruction& i) {
           const auto* e = std::get_if<AttentionExpression>(&i.expression);
           return e && (e->rule.mask == rt::AttentionMask::replace || e->rule.mask == rt::AttentionMask::keep);
         };
         return change(p, p.find(chooses), [](Instruction& i) {
           rt::AttentionMask& mask = std::get<AttentionExpression>(i.expression).rule.mask;
           mask = mask == rt::AttentionMask::keep ? rt::AttentionMask::replace : rt::AttentionMask::keep;
         });
       }},
      {"attention takes keys for queries",
       [](Patient& p) {
         return change(p, p.find(has<AttentionExpression>()), [](Instruction& i) {
           std::swap(i.ins[0], i.ins[1]);
           std::swap(i.reads[0], i.reads[1]);
         });
       }},
      {"attention sums over other labels",
       [](Patient& p) {
         return change(p, p.find(has<AttentionExpression>()), [](Instruction& i) {
           std::string& equation = std::get<AttentionExpression>(i.expression).equation;
           std::swap(equation[0], equation[equation.find(',') - 1]);
         });
       }},
      {"gradients of attention are exchanged",
       [](Patient& p) {
         return change(p, p.find(Opcode::attention_grad), [](Instruction& i) {
           std::swap(i.outs[0], i.outs[1]);
           std::swap(i.writes[0], i.writes[1]);
         });
       }},
      {"attention does not leave the sums that its gradient needs",
       [](Patient& p) {
         const auto keeps_sums = [](const Instruction& i) { return i.opcode == Opcode::attention && i.outs.size() > 1; };
         return change(p, p.find(keeps_sums), [](Instruction& i) {
           i.outs.pop_back();
           i.writes.pop_back();
         });
       }},
      {"a sum begins with one",
       [](Patient& p) { return change(p, p.find(Opcode::fill), [](Instruction& i) { std::get<FillValue>(i.expression).value += 1; }); }},
      {"the join of partial values is dropped",
       [](Patient& p) {
         return drop(p, p.find([](const Instruction& i) {
           return !i.op.valid() && (i.opcode == Opcode::reduce || (i.opcode == Opcode::copy && i.accumulate));
         }));
       }},
      {"a kernel runs before its operand is there",
       [](Patient& p) { return run_early(p, [](const Instruction& i) { return is_kernel(i) && !i.accumulate; }); }},
      {"an update runs before the gradient is there", [](Patient& p) { return run_early(p, is_opcode(Opcode::update)); }},
      {"an output is not handed over", [](Patient& p) { return drop(p, p.find(Opcode::capture)); }},
      {"a message is received too late",
       [](Patient& p) {
         const auto site = p.find(Opcode::receive);
         if (!site) return false;
         const Instructions list = p.own_list(*site);
         Instruction moved = list[site->instruction];
         list.erase(site->instruction);
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
      {"a micro-batch runs the other's variant of a segment",
       [](Patient& p) {
         for (size_t rank = 0; rank < p.programs.ranks.size(); ++rank) {
           const Body& body = p.body(rank);
           for (size_t i = 0; i < body.schedule.size(); ++i)
             for (size_t s = 0; s < body.segments.size(); ++s) {
               const ProgramSegment &now = body.segments[static_cast<size_t>(body.schedule[i].segment)], &other = body.segments[s];
               if (other.name != now.name || other.variant == now.variant || other.instructions.empty()) continue;
               p.own(rank).schedule[i].segment = static_cast<int32_t>(s);
               return true;
             }
         }
         return false;
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
      {"a buffer is reused while it is read",
       [](Patient& p) {
         const auto site = p.find([](const Instruction& i) { return is_kernel(i) && !i.ins.empty(); });
         if (!site) return false;
         const BufferId read = p.at(*site).ins[0].buffer;
         const auto& list = p.body(site->rank).segments[site->segment].instructions;
         for (size_t i = site->instruction; i-- > 0;)
           for (const View& written : list[i].outs) {
             if (written.buffer == read) return false;  // nothing is written between
             if (p.body(site->rank).buffers[written.buffer].source != Buffer::Source::none) continue;
             auto& buffers = p.own(site->rank).buffers;
             buffers[written.buffer].offset = buffers[read].offset;
             return true;
           }
         return false;
       }},
      {"the arena is too small", [](Patient& p) { return p.own(p.below(p.programs.ranks.size())).arena_bytes -= 64, true; }},
      {"a kernel runs on the processor beside the one that has its operands",
       [](Patient& p) {
         return change(p, p.find([](const Instruction& i) { return is_kernel(i) && i.opcode != Opcode::copy; }),
                       [](Instruction& i) { i.on_host = !i.on_host; });
       }},
      {"a value lies in memory for another type",
       [](Patient& p) {
         const auto site = p.find([](const Instruction& i) { return is_kernel(i) && !i.ins.empty(); });
         if (!site) return false;
         const BufferId buffer = p.at(*site).ins[0].buffer;
         DType& type = p.own(site->rank).buffers[buffer].dtype;
         if (!rt::is_float(type)) return false;
         type = type == DType::f32 ? DType::bf16 : DType::f32;
         return true;
       }},
      {"a value lies in the other memory",
       [](Patient& p) {
         for (size_t rank = 0; rank < p.programs.ranks.size(); ++rank)
           for (int64_t b = 0; b < p.body(rank).buffers.size(); ++b)
             if (p.body(rank).buffers[BufferId(b)].source == Buffer::Source::none && p.body(rank).buffers[BufferId(b)].elements > 0) {
               Buffer& buffer = p.own(rank).buffers[BufferId(b)];
               buffer.on_host = !buffer.on_host;
               return true;
             }
         return false;
       }},
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
      {"a signal is dropped",
       [](Patient& p) {
         return change_everywhere(p, p.find(is_signal), [](const Instructions& list, size_t i) {
           list.erase(i);
           return -1;
         });
       }},
      {"a signal is given before what it tells", [](Patient& p) { return move_to_end(p, p.find(is_signal), Opcode::send); }},
      {"a signal is heard after what it is for", [](Patient& p) { return move_to_end(p, p.find(is_signal), Opcode::receive); }},
      {"a signal does not wait for what it tells",
       [](Patient& p) {
         const auto waits = [](const Instruction& i) { return is_signal(i) && i.opcode == Opcode::send && !i.waits.empty(); };
         return change(p, p.find(waits), [](Instruction& i) { i.waits.clear(); });
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
      {"a stream waits for another instruction",
       [](Patient& p) {
         const auto site = p.find([](const Instruction& i) { return !i.waits.empty(); });
         if (!site) return false;
         int32_t& other = p.own_at(*site).waits[0];
         if (other == 0) return false;
         --other;
         return true;
       }},
      {"an event of an earlier slot is missing",
       [](Patient& p) {
         return change(p, p.find([](const Instruction& i) { return !i.waits_before.empty(); }), [&](Instruction& i) {
           i.waits_before.erase(i.waits_before.begin() + static_cast<std::ptrdiff_t>(p.below(i.waits_before.size())));
         });
       }},
      {"a stream does not wait for what earlier slots do",
       [](Patient& p) {
         return change(p, p.find([](const Instruction& i) { return i.stream > 0 && !i.waits_before.empty(); }),
                       [](Instruction& i) { i.waits_before.clear(); });
       }},
      {"an event is of one slot too early",
       [](Patient& p) {
         return change(p, p.find([](const Instruction& i) { return !i.waits_before.empty(); }),
                       [&](Instruction& i) { ++i.waits_before[p.below(i.waits_before.size())].age; });
       }},
      {"an event of an earlier slot is of another instruction",
       [](Patient& p) {
         const auto site = p.find([](const Instruction& i) { return !i.waits_before.empty(); });
         if (!site) return false;
         int32_t& other = p.own_at(*site).waits_before[0].instruction;
         if (other == 0) return false;
         --other;
         return true;
       }},
      {"a kernel runs beside the others",
       [](Patient& p) {
         return change(p, p.find([](const Instruction& i) { return is_kernel(i) && i.waits.empty(); }), [](Instruction& i) { i.stream = 1 << 10; });
       }},
      {"an output is handed over as another region",
       [](Patient& p) {
         const auto site = p.find([](const Instruction& i) {
           const auto* c = std::get_if<Capture>(&i.expression);
           return c && c->regions >= 0 && c->what == Capture::What::output;
         });
         if (!site) return false;
         Region& region = p.programs.ranks[site->rank].constants.regions[static_cast<size_t>(std::get<Capture>(p.at(*site).expression).regions)];
         if (region.rank() == 0) return false;
         region.set_dim(0, Intervals(region.dim(0).begin_position() + 1, region.dim(0).end_position() + 1));
         return true;
       }},
  };
  static const std::vector<Damage> all = [] {
    std::vector<Damage> result;
    for (const auto& [name, change] : changes)
      result.push_back({name, [change = change](Programs& programs, Random& random) {
                          Patient patient(programs, random);
                          return change(patient);
                        }});
    return result;
  }();
  return all;
}

}  // namespace sscc::equivalence
