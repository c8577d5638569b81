// What the host offers, as the component model has it in JavaScript.

declare module "hotpick:policy/call@0.1.0" {
  export function declareMetadata(key: string): number;
  export function metadata(key: number): string | null | undefined;
  export function tried(id: number): boolean;
  export function explain(message: string): void;
}

declare module "hotpick:policy/stats@0.1.0" {
  export function inFlight(id: number): number;
}
