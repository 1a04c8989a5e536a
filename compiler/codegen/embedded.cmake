# The runtime's sources and the templates of a build folder become part of the library: sscc needs no installed files.
set(embedded ${CMAKE_CURRENT_BINARY_DIR}/codegen/embedded_files.cpp)
set(runtime ${PROJECT_SOURCE_DIR}/runtime)
set(templates ${CMAKE_CURRENT_SOURCE_DIR}/codegen/templates)
file(GLOB_RECURSE embedded_inputs CONFIGURE_DEPENDS ${runtime}/*.h ${runtime}/*.cpp ${runtime}/*.cuh ${runtime}/*.cu ${templates}/*)
add_custom_command(
  OUTPUT ${embedded}
  COMMAND ${CMAKE_COMMAND} -D OUTPUT=${embedded} -D RUNTIME=${runtime} -D TEMPLATES=${templates} -P ${CMAKE_CURRENT_SOURCE_DIR}/codegen/embed.cmake
  DEPENDS ${embedded_inputs} ${CMAKE_CURRENT_SOURCE_DIR}/codegen/embed.cmake
  VERBATIM)
target_sources(sscc_codegen PRIVATE ${embedded})
