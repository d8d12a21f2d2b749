"use strict";
// Which trajectories answer the same question: side by side at one step, or at the first and the last.
const thymeQuestions = (all) => {
  const groups = new Map();
  const questions = new Map();
  const numbers = new Map();
  const keys = all.map((t) => {
    // A row of a table of text has no pictures; the prompt alone tells its questions apart.
    const text = JSON.stringify([t.run, t.prompt || t.question, t.images.map((image) => image[0])]);
    if (!numbers.has(text)) numbers.set(text, numbers.size);
    const question = numbers.get(text);
    return { question, group: `${t.step} ${question}` };
  });
  const add = (map, key, index) => {
    if (!map.has(key)) map.set(key, []);
    map.get(key).push(index);
  };
  keys.forEach((key, index) => {
    add(groups, key.group, index);
    add(questions, key.question, index);
  });
  const group = (index) => groups.get(keys[index].group);

  // The samples of the question's first and last step; null where it was asked at one step only.
  function ends(index) {
    const asked = questions.get(keys[index].question).filter((i) => all[i].step !== null);
    if (!asked.length) return null;
    const steps = asked.map((i) => all[i].step);
    // One pass: a spread of a long list can overflow the stack.
    const [first, last] = steps.reduce(([a, b], s) => [Math.min(a, s), Math.max(b, s)], [Infinity, -Infinity]);
    if (first === last) return null;
    const at = (step) => asked.filter((i) => all[i].step === step);
    return { first: at(first), last: at(last) };
  }
  return { group, ends };
};
