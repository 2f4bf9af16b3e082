// Class names, in the order of the model's outputs.
#ifndef LABELS_H_
#define LABELS_H_

constexpr int kClasses = $classes;
constexpr const char* kLabels[kClasses] = {
$labels
};

#endif  // LABELS_H_
