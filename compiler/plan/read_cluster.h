// The cluster file (docs/cluster.md, plans/cluster.schema.json).
#pragma once

#include <string>
#include <string_view>

#include "compiler/ir/cluster.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

// Reads and validates, and reports every error it finds, located. A file that cannot be opened throws EnvironmentError.
Cluster read_cluster(const std::string& file, Diagnostics& diagnostics);
Cluster read_cluster_text(std::string_view text, const std::string& file, Diagnostics& diagnostics);

// An error if a plan needs more devices than there are.
void check_size(const Cluster& cluster, int64_t devices, Diagnostics& diagnostics);

}  // namespace sscc
