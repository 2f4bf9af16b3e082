// What a bare board needs: where the stack begins and where to start, and text through the debugger.
#include <cstdarg>
#include <cstdio>

extern "C" {

void _start();
extern char __stack;

void DebugLog(const char* format, va_list args) { vprintf(format, args); }

int DebugVsnprintf(char* buffer, size_t size, const char* format, va_list args) {
  return vsnprintf(buffer, size, format, args);
}
}

__attribute__((section(".vectors"), used)) const void* const kVectors[] = {&__stack,
                                                                           reinterpret_cast<const void*>(_start)};
