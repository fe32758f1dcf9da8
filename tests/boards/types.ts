// Grafana's own types of a board, for JSON: its enumerations are their texts there.
import type { AnnotationQuery, Dashboard } from "@grafana/schema";

type Plain<T> = T extends string
  ? `${T}`
  : T extends (infer U)[]
    ? Plain<U>[]
    : T extends object
      ? { [K in keyof T]: Plain<T[K]> }
      : T;

/** What the data source for Prometheus keeps in an annotation. */
interface FromPrometheus {
  expr: string;
  step: string;
  titleFormat: string;
  textFormat: string;
  tagKeys: string;
}

export type Board = Omit<Plain<Dashboard>, "annotations"> & {
  annotations: { list: (Plain<AnnotationQuery> & FromPrometheus)[] };
};
