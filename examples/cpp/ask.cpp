// Asks the agent on this device over the Open Inference Protocol: build/ask SOCKET MODEL INPUT SHAPE < frame.f32
// Build it with make in this folder; the Makefile says what that needs.
// SHAPE is for example 1,8,8,1; the frame is float32 values, little-endian, on standard input.
#include <chrono>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>

#include <grpcpp/grpcpp.h>

#include "dsops/api/v1/open_inference_grpc.grpc.pb.h"

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: ask SOCKET MODEL INPUT SHAPE < frame.f32\n";
    return 2;
  }
  auto channel = grpc::CreateChannel(std::string("unix:") + argv[1], grpc::InsecureChannelCredentials());
  auto stub = inference::GRPCInferenceService::NewStub(channel);

  inference::ModelInferRequest request;
  request.set_model_name(argv[2]);
  auto* input = request.add_inputs();
  input->set_name(argv[3]);
  input->set_datatype("FP32");
  std::istringstream shape(argv[4]);
  for (std::string size; std::getline(shape, size, ',');) input->add_shape(std::stoll(size));
  request.add_raw_input_contents(std::string(std::istreambuf_iterator<char>(std::cin), {}));

  inference::ModelInferResponse response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  const grpc::Status status = stub->ModelInfer(&context, request, &response);
  if (!status.ok()) {
    const bool was_refused = status.error_code() != grpc::StatusCode::UNAVAILABLE &&
                             status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED;
    std::cerr << (was_refused ? "the agent refused: " : "the agent did not answer: ") << status.error_message() << "\n";
    return 1;
  }
  for (int at = 0; at < response.outputs_size(); ++at) {
    const auto& output = response.outputs(at);
    const std::string& raw = response.raw_output_contents(at);
    std::cout << output.name();
    if (output.datatype() == "FP32") {
      for (size_t place = 0; place + 4 <= raw.size(); place += 4) {
        float value;
        std::memcpy(&value, raw.data() + place, 4);
        std::cout << ' ' << value;
      }
    } else if (output.datatype() == "BYTES") {  // each text after its length
      for (size_t place = 0; place + 4 <= raw.size();) {
        uint32_t size;
        std::memcpy(&size, raw.data() + place, 4);
        std::cout << ' ' << raw.substr(place + 4, size);
        place += 4 + size;
      }
    }
    std::cout << '\n';
  }
}
