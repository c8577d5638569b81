// Functions of the host, as componentize-qjs presents them in JavaScript.

declare module "hotpick:policy/call@0.1.0" {
  export function declareMetadata(key: string): number;
  export function declareAffinity(key: number): void;
  export function metadata(key: number): string | null | undefined;
  export function tried(id: number): boolean;
  export function explain(message: string): void;
}

declare module "hotpick:policy/env@0.1.0" {
  export function log(level: "trace" | "debug" | "info" | "warn" | "error", message: string): void;
}

declare module "hotpick:policy/stats@0.1.0" {
  export function inFlight(id: number): number;
}

declare module "hotpick:script/info@0.1.0" {
  export function call(): number;
  export function method(): number;
  export function affinity(): [number, number] | null | undefined;
  export function random(): number;
  export function now(): number;
  export function attempt(): number;
  export function waitForReady(): boolean;
  export function requeued(): boolean;
}
