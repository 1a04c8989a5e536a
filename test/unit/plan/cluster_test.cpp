#include "compiler/plan/read_cluster.h"

#include "test/unit/plan/reading.h"

namespace sscc {
namespace {

Diagnostics diagnostics_of(const std::string& text) {
  Diagnostics diagnostics;
  read_cluster_text(text, "cluster.json", diagnostics);
  return diagnostics;
}
Cluster good(const std::string& text) {
  Diagnostics diagnostics;
  Cluster cluster = read_cluster_text(text, "cluster.json", diagnostics);
  for (const Diagnostic& d : diagnostics.all()) UNSCOPED_INFO(to_text(d));
  CHECK(diagnostics.all().empty());
  return cluster;
}
void mistake(const std::string& marked_text, Code code, const std::string& words) {
  const Marked marked = unmark(marked_text);
  check_refusal(diagnostics_of(marked.text), marked, code, words);
}

const std::string device = R"("device": {"flops_per_second": {"f32": 2e13}, "memory_bytes_per_second": 1e12, "memory": "1KiB"})";
const std::string link = R"("bytes_per_second": 1e9, "latency_seconds": 1e-6)";
std::string cluster(const std::string& levels) { return R"({"version": 1, )" + device + ",\n \"levels\": [" + levels + "]}"; }

TEST_CASE("levels of groups") {
  const Cluster c = good(
      cluster(R"({"devices": 2, "bytes_per_second": 1e11, "latency_seconds": 0}, {"devices": 4, )" + link + R"(}, {"devices": 8, )" + link + "}"));
  CHECK(c.is_given());
  CHECK(c.devices == 8);
  CHECK(c.device.flops_per_second == 2e13);
  CHECK(c.device.memory_bytes == 1024);
  CHECK(c.device.kernel_seconds == Cluster().device.kernel_seconds);
  CHECK(c.level_of({2, 3}) == 0);
  CHECK(c.level_of({1, 2}) == 1);
  CHECK(c.level_of({0, 1, 4}) == 2);
  CHECK(c.link_of({2, 3}).bytes_per_second == 1e11);
  CHECK(c.link_of({3}).bytes_per_second == 1e11);
  CHECK(Cluster().level_of({0, 1000}) == 0);
}

TEST_CASE("groups that differ") {
  const Cluster c = good(cluster(R"({"groups": [[0, 4], [1, 2, 3]], )" + link + R"(}, {"devices": 5, )" + link + "}"));
  CHECK(c.devices == 5);
  CHECK(c.level_of({4, 0}) == 0);
  CHECK(c.level_of({0, 1}) == 1);
}

TEST_CASE("mistakes of cluster files are told where they are") {
  mistake("^^[]", Code::wrong_type, "a cluster");
  mistake(R"(^^{"version": 1, "levels": []})", Code::missing_key, "'device'");
  mistake(R"({"version": ^^2})", Code::wrong_type, "version 1");
  mistake(R"({"version": 1, ^^"level": []})", Code::unknown_key, "did you mean 'levels'?");
  mistake(R"({"version": 1, "device": {^^"flops": {}}})", Code::unknown_key, "'flops'");
  mistake(R"({"version": 1, "device": {"flops_per_second": ^^{"bf16": 1}}})", Code::missing_key, "'f32'");
  mistake(R"({"version": 1, "device": {"flops_per_second": {"f32": ^^0}}})", Code::wrong_type, "above 0");
  mistake(R"({"version": 1, "device": {"memory": ^^"80 gigabytes"}})", Code::wrong_type, "a number of bytes");
  mistake(R"({"version": 1, "device": {"kernel_seconds": ^^-1}})", Code::wrong_type, "at least 0");
  mistake(R"({"version": 1, "note": ^^3})", Code::wrong_type, "a list of strings");
  mistake(R"({"version": 1, "levels": ^^[]})", Code::wrong_type, "a list of levels");
  mistake(cluster("^^{" + link + "}"), Code::missing_key, "'devices'");
  mistake(cluster(R"({"devices": 2, ^^"groups": [[0, 1]], )" + link + "}"), Code::unknown_key, "not both");
  mistake(cluster(R"({"devices": ^^0, )" + link + "}"), Code::wrong_type, "at least 1");
  mistake(cluster(R"(^^{"devices": 2, "latency_seconds": 1})"), Code::missing_key, "'bytes_per_second'");
  mistake(cluster(R"({"devices": 2, "bandwidth": 1, ^^"bytes_per_seconds": 1})"), Code::unknown_key, "did you mean 'bytes_per_second'?");
  mistake(cluster(R"({"groups": [[0, 1], ^^[1]], )" + link + "}"), Code::cluster_does_not_fit, "in two groups");
  mistake(cluster(R"({"groups": ^^[[0, 2]], )" + link + "}"), Code::cluster_does_not_fit, "device 1 is in no group");
  mistake(cluster(R"(^^{"groups": [[0], [1]], )" + link + "}"), Code::cluster_does_not_fit, "one group of all devices");
  mistake(cluster(R"(^^{"groups": [[0, 1], [2]], )" + link + R"(}, {"devices": 4, )" + link + "}"), Code::cluster_does_not_fit, "has 3 devices");
  mistake(cluster(R"({"devices": 2, )" + link + R"(}, ^^{"devices": 3, )" + link + R"(}, {"devices": 6, )" + link + "}"), Code::cluster_does_not_fit,
          "lies in two groups");
}

TEST_CASE("a plan may use fewer devices than there are, not more") {
  const Cluster c = good(cluster(R"({"devices": 4, )" + link + "}"));
  Diagnostics diagnostics;
  check_size(c, 4, diagnostics);
  check_size(Cluster(), 1000, diagnostics);
  CHECK(diagnostics.all().empty());
  check_size(c, 5, diagnostics);
  REQUIRE(diagnostics.all().size() == 1);
  CHECK_THAT(to_text(diagnostics.all()[0]), Catch::Contains("cluster.json:2:25") && Catch::Contains("needs 5 devices"));
}

}  // namespace
}  // namespace sscc
